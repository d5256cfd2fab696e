"""What the reward promises."""

import pytest

from dovetail import Ragged, rewards
from dovetail.errors import OptionError
from dovetail.testing import check_kernel, part_checks

CASES = [("default", {}), ("pairs", {"n": 2, "max_penalty": -0.5}), ("single tokens", {"n": 1})]
CHECKS = [(n, c) for n, options in CASES for c in part_checks("rewards", "repetition", options=options, bounds=(-1, 0))]


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=str)
def test_conformance(case, check):
    """It keeps what every reward promises, whatever its options."""
    check()


@pytest.mark.parametrize("check", check_kernel(rewards.repetition(n=2)), ids=str)
def test_kernel(check):
    """It keeps what every kernel promises."""
    check()


def test_scores_count_what_came_before():
    """Three of four pairs are the same: half of them came before; a row without n-grams scores 0."""
    rows = Ragged.from_rows([[1, 2, 1, 2, 1], [1, 2, 3, 4], [1], []], dtype=None)
    scores = rewards.repetition(n=2, max_penalty=-2.0).instance.score(rows.to(dtype=rows.values.dtype))
    assert scores.tolist() == [-1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("options", [{"n": 0}, {"max_penalty": 0.5}])
def test_options_out_of_range_are_refused(options):
    """The error names the part."""
    with pytest.raises(OptionError, match="rewards part 'repetition'"):
        rewards.repetition(**options)
