"""Neither spread nor length divides."""

from __future__ import annotations

import pytest

from dovetail import diff, recipes
from dovetail.testing import part_checks

CHECKS = part_checks("recipes", "dr-grpo")


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


def test_it_is_grpo_with_other_denominators():
    """The difference is all there is."""
    assert list(diff("grpo", "dr-grpo")) == [
        "~ advantages.scale: 'group' -> 'none'",
        "~ loss.reduction: 'token_mean' -> 'sequence_sum_norm'",
        "~ loss.norm: None -> 256.0",
    ]


def test_its_defaults_can_be_overridden():
    """A difference is a default, no more."""
    graph = recipes["dr-grpo"](norm=32.0, scale="batch").trace()
    assert graph["loss"].settings()["norm"] == 32.0
    assert graph["advantages"].settings()["scale"] == "batch"
