"""What every recipe promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dovetail.graph.recipe import Recipe
from dovetail.graph.show import diff, draw


def checks(recipe: Recipe) -> Iterator[tuple[str, Callable[[], None]]]:
    """Claims and functions."""
    yield "it traces to a checked graph with a loss", lambda: _traces(recipe)
    yield "it differs from itself in nothing", lambda: _equals_itself(recipe)
    yield "it can be drawn", lambda: _draws(recipe)


def _traces(recipe: Recipe) -> None:
    assert recipe.trace().losses


def _equals_itself(recipe: Recipe) -> None:
    difference = diff(recipe, recipe)
    assert not difference, str(difference)


def _draws(recipe: Recipe) -> None:
    assert draw(recipe).startswith("flowchart")
    assert draw(recipe, "svg").startswith("<svg")
