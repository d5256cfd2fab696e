"""Credit divided by the rate of success."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import advantage_estimators
from dovetail.errors import OptionError, PartError
from dovetail.testing import part_checks

CHECKS = [
    *part_checks("advantages", "maxrl", negative=False),
    *part_checks("recipes", "maxrl"),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 3)), min_size=1, max_size=12)


@settings(deadline=None)
@given(ROWS, st.permutations(range(12)))
def test_it_is_finite_and_knows_no_order(rows, order):
    """Whatever the groups, and the group that is all zero gets 0."""
    part = advantage_estimators.maxrl().instance
    rewards, groups = torch.tensor([r for r, _ in rows]), torch.tensor([g for _, g in rows])
    found = part.estimate(rewards, groups)
    order = [place for place in order if place < len(rows)]
    torch.testing.assert_close(part.estimate(rewards[order], groups[order]), found[order])
    assert bool(torch.isfinite(found).all())


def test_successes_of_a_group_share_one_gradient():
    """Binary rewards, eps = 0: the sum of A times score is the mean score of the successes, minus that of all, by n."""
    rewards, groups = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]), torch.zeros(5)
    found = advantage_estimators.maxrl(eps=0.0).instance.estimate(rewards, groups)
    scores = torch.randn(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((found * scores).mean(), scores[rewards == 1].mean() - scores.mean())


def test_negative_rewards_are_refused():
    """The rate of success would mean nothing."""
    part = advantage_estimators.maxrl()
    with pytest.raises(PartError, match="rewards must not be negative, and the least is -1"):
        part.call("estimate", {"rewards": torch.tensor([-1.0, 1.0]), "groups": torch.zeros(2)})


def test_options_that_do_not_fit_are_refused():
    """The error names the option."""
    with pytest.raises(OptionError, match="'eps' must be >= 0"):
        advantage_estimators.maxrl(eps=-1.0)
