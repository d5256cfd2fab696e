"""How good, and how sure: against counting, and against the textbook."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, strategies

from dovetail_trainer.statistics import difference, pass_at_k, share


@given(strategies.integers(1, 8), strategies.data())
def test_pass_at_k_is_the_share_of_choices_that_hold_a_success(samples, data):
    """Counted over all choices of k samples."""
    successes, k = data.draw(strategies.integers(0, samples)), data.draw(strategies.integers(1, samples))
    outcomes = [True] * successes + [False] * (samples - successes)
    choices = list(itertools.combinations(outcomes, k))
    assert pass_at_k(samples, successes, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_more_samples_are_needed_than_there_are():
    """It is no estimate then."""
    with pytest.raises(ValueError, match="pass@4 needs 4 samples, got 3"):
        pass_at_k(3, 1, 4)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 2, 0.0945, 0.9055), (81, 263, 0.2553, 0.3662)],
)  # fmt: skip
def test_the_interval_of_single_samples_is_wilsons(successes, count, low, high):
    """Values of the score method without continuity correction; the last from Newcombe 1998, table I, method 3."""
    found = share([1.0] * successes + [0.0] * (count - successes))
    assert found.mean == successes / count
    # A sample variance is that of n - 1, which the textbook's formula does not know: a hair narrower at most.
    assert found.low == pytest.approx(low, abs=2e-4)
    assert found.high == pytest.approx(high, abs=2e-4)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Tasks of different difficulty, four samples each: about 19 times in 20, for pass@1."""
    chance, covered, rounds = random.Random(0), 0, 600
    for _ in range(rounds):
        truths = [chance.betavariate(0.5, 0.5) for _ in range(60)]
        values = [sum(chance.random() < truth for _ in range(4)) / 4 for truth in truths]
        found = share(values)
        covered += found.low <= 0.5 <= found.high
    assert 0.925 <= covered / rounds <= 0.985


def test_a_paired_difference_is_surer_than_two_means():
    """What the tasks have in common cancels out."""
    chance = random.Random(1)
    baseline = [chance.random() for _ in range(200)]
    found = difference([value + 0.05 + chance.gauss(0, 0.02) for value in baseline], baseline)
    assert found.low > 0.04
    assert found.high < 0.06


def test_nothing_played_is_no_number():
    """Not 0."""
    assert math.isnan(share([]).mean)
    assert math.isnan(difference([], []).low)
