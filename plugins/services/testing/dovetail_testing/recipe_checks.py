"""What every recipe promises."""

from __future__ import annotations

from collections.abc import Callable

from dovetail.graph.recipe import Recipe
from dovetail_trainer.show import diff, draw


def checks(_: Recipe) -> dict[str, Callable[[Recipe], None]]:
    return {
        "it traces to a checked graph with a loss": _traces,
        "it differs from itself in nothing": _equals_itself,
        "it can be drawn": _draws,
    }


def _traces(recipe: Recipe) -> None:
    assert recipe.trace().losses


def _equals_itself(recipe: Recipe) -> None:
    difference = diff(recipe, recipe)
    assert not difference, str(difference)


def _draws(recipe: Recipe) -> None:
    assert draw(recipe).startswith("flowchart")
    assert draw(recipe, "svg").startswith("<svg")
