"""What the reward promises."""

import pytest

from dovetail import rewards
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_length import Length

CASES = [("target", {"target": 10}), ("limit", {"limit": 12, "buffer": 4}), ("default", {})]
CHECKS = [(n, c) for n, options in CASES for c in part_checks("rewards", "length", options=options, bounds=(-1, 0))]


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=lambda value: str(value))
def test_conformance(case, check):
    """It keeps what every reward promises, whatever its options."""
    check()


def test_target_is_best_and_both_sides_are_alike():
    """The target scores 0, and equal distances score alike."""
    completions = tiny_rollouts(lengths=(10, 8, 12, 40)).completions
    assert Length(target=10).score(completions).tolist() == pytest.approx([0.0, -0.2, -0.2, -1.0])


def test_soft_overlong_punishment():
    """DAPO's equation 13: 0 up to limit - buffer, then a straight line to -1."""
    completions = tiny_rollouts(lengths=(8, 10, 12, 40)).completions
    assert Length(limit=12, buffer=4).score(completions).tolist() == pytest.approx([0.0, -0.5, -1.0, -1.0])


@pytest.mark.parametrize(
    "options", [{"target": 3, "limit": 4}, {"buffer": 3}, {"limit": 3, "buffer": 4}, {"target": 0}]
)
def test_options_that_exclude_each_other_are_refused(options):
    """The error names the part."""
    with pytest.raises(OptionError, match="rewards part 'length'"):
        rewards.length(**options)
