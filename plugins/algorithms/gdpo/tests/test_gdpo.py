"""Each reward by itself."""

from __future__ import annotations

import pytest

from dovetail import diff
from dovetail.testing import part_checks

CHECKS = part_checks("recipes", "gdpo")


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


def test_it_is_grpo_with_another_order():
    """The difference is all there is."""
    assert list(diff("grpo", "gdpo")) == ["~ advantages.combine: 'sum_then_normalize' -> 'normalize_then_sum'"]
