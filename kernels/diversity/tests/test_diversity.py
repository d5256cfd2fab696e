"""What the reward promises."""

import pytest
import torch

from dovetail import Ragged, rewards
from dovetail.errors import OptionError
from dovetail.testing import check_kernel, part_checks
from dovetail_diversity import Diversity

CASES = [("default", {}), ("single tokens", {"max_n": 1})]
CHECKS = [(n, c) for n, options in CASES for c in part_checks("rewards", "diversity", options=options, bounds=(0, 1))]


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=str)
def test_conformance(case, check):
    """It keeps what every reward promises, whatever its options."""
    check()


@pytest.mark.parametrize("check", check_kernel(rewards.diversity(max_n=2)), ids=str)
def test_kernel(check):
    """It keeps what every kernel promises."""
    check()


def test_scores_are_means_of_distinct_shares():
    """2 of 5 tokens and 2 of 4 pairs; all different; one token; none."""
    rows = Ragged.from_rows([[1, 2, 1, 2, 1], [1, 2, 3], [7], []], dtype=torch.int64)
    assert Diversity(max_n=2).score(rows).tolist() == pytest.approx([(2 / 5 + 2 / 4) / 2, 1.0, 1.0, 0.0])


def test_no_length_of_ngrams_is_refused():
    """The error names the part."""
    with pytest.raises(OptionError, match="rewards part 'diversity'"):
        rewards.diversity(max_n=0)
