"""Clip-higher, the shaping, and what the recipe changes of grpo."""

from __future__ import annotations

import pytest
import torch

from dovetail import Ragged, diff, recipes, rewards
from dovetail.errors import OptionError, RecipeError
from dovetail.testing import part_checks

CHECKS = [
    *part_checks("rewards", "overlong", options={"limit": 20, "buffer": 4}, bounds=(-1.0, 0.0)),
    *part_checks("recipes", "dapo"),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises."""
    check()


def test_the_punishment_is_equation_13():
    """0, then a straight line, then -1."""
    lengths = [0, 16, 17, 18, 20, 30]
    rows = Ragged.from_rows([torch.zeros(length, dtype=torch.int64) for length in lengths])
    found = rewards.overlong(limit=20, buffer=4).instance.score(rows)
    assert found.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_it_is_grpo_with_clip_higher_and_further_draws():
    """The difference is all there is."""
    assert list(diff("grpo", "dapo")) == ["~ completions.draws: None -> 10", "~ loss.clip_high: None -> 0.28"]


def test_the_shaping_is_added_to_the_reward():
    """With DAPO's share of the limit as the buffer."""
    graph = recipes.dapo(overlong_limit=100).trace()
    assert graph["overlong_reward"].settings()["buffer"] == 20
    assert {ref.node for ref in graph["rewards"].inputs.values()} == {"rewards_before", "overlong_reward"}


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"max_draws": 0}, RecipeError, "draws must be a whole number from 1, got 0"),
        ({"overlong_limit": 10, "overlong_buffer": 11}, OptionError, "buffer must not be above limit = 10, got 11"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, error, told):
    """The error says which."""
    with pytest.raises(error, match=told):
        recipes.dapo(**options).trace()
