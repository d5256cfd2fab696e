"""What the reward promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail import Ragged, rewards
from dovetail.errors import OptionError
from dovetail.testing import part_checks
from dovetail_length_distribution import LengthDistribution

CHECKS = part_checks("rewards", "length-distribution", options={"target": [0, 10, 40]})
LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=12)
TARGETS = st.lists(st.floats(0, 60), min_size=2, max_size=6).map(sorted).filter(lambda target: sum(target) > 1)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """It keeps what every reward promises."""
    check()


def plain(lengths: list[int], target: tuple[float, ...], scale: float) -> list[float]:
    """The scores of a batch in plain Python."""
    ranked = sorted(lengths)
    costs: dict[int, list[float]] = {}
    for place, length in enumerate(ranked):
        at = (place + 0.5) / len(ranked) * (len(target) - 1)
        low = min(int(at), len(target) - 2) if len(target) > 1 else 0
        high = min(low + 1, len(target) - 1)
        goal = target[low] + (at - low) * (target[high] - target[low])
        costs.setdefault(length, []).append(abs(length - goal))
    return [-sum(costs[length]) / len(costs[length]) / scale for length in lengths]


def scored(lengths, target):
    rows = Ragged.from_lengths(torch.zeros(sum(lengths), dtype=torch.int64), torch.tensor(lengths))
    return LengthDistribution(target=target).score(rows, torch.zeros(len(lengths))).tolist()


def test_a_batch_that_follows_the_target_scores_0_and_each_row_pays_for_its_own_way():
    """Quarters of a uniform target; then one row 10 too long."""
    assert scored([70, 10, 50, 30], [0, 80]) == pytest.approx([0, 0, 0, 0])
    assert scored([80, 10, 50, 30], [0, 80]) == pytest.approx([-10 / 40, 0, 0, 0])


@given(LENGTHS, TARGETS)
def test_scores_are_those_of_plain_python_whatever_the_order(lengths, target):
    """Rows of one length score alike."""
    part = LengthDistribution(target=target)
    scores = scored(lengths, target)
    assert scores == pytest.approx(plain(lengths, part.target, part.scale), abs=1e-4)
    assert scored(lengths[::-1], target) == pytest.approx(scores[::-1], abs=1e-4)


@given(LENGTHS, TARGETS)
def test_their_mean_is_the_wasserstein_distance(lengths, target):
    """Against the cheapest of all ways to give the target's lengths to the rows."""
    part = LengthDistribution(target=target)
    at = [(place + 0.5) / len(lengths) * (len(target) - 1) for place in range(len(lengths))]
    due = torch.tensor([_between(part.target, place) for place in at])
    cost = (torch.tensor(lengths, dtype=torch.float32)[:, None] - due).abs()
    scipy = pytest.importorskip("scipy.optimize")
    cheapest = cost[scipy.linear_sum_assignment(cost.numpy())].mean().item()
    assert -sum(scored(lengths, target)) / len(lengths) * part.scale == pytest.approx(cheapest, abs=1e-3)


def _between(target, place):
    low = min(int(place), len(target) - 2)
    return target[low] + (place - low) * (target[low + 1] - target[low])


@pytest.mark.parametrize("target", [[5], [9, 3], [-1, 4], [0, 0]])
def test_what_is_no_distribution_is_refused(target):
    """The error names the part."""
    with pytest.raises(OptionError, match=r"rewards part 'length-distribution'.*do not fall"):
        rewards.length_distribution(target=target)
