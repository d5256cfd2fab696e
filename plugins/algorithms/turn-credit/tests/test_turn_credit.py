"""Against the formula, written a turn at a time in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies

import dovetail as dt
from dovetail import Ragged
from dovetail.testing import part_checks


@pytest.mark.parametrize("check", part_checks("advantages", "turn"), ids=str)
def test_conformance(check):
    """It keeps what every estimator promises."""
    check()


@pytest.mark.parametrize("check", part_checks("recipes", "turn-grpo"), ids=str)
def test_recipe_conformance(check):
    """It keeps what every recipe promises."""
    check()


def reference(turns, totals, groups, gamma, eps):
    """``turns``: of each episode, pairs of tokens and reward. A list of advantages for each episode's tokens."""
    returns = []
    for episode, total in zip(turns, totals, strict=True):
        rewards = [reward for _, reward in episode]
        rewards[-1] += total - sum(rewards)
        returns.append(
            [sum(gamma ** (j - k) * r for j, r in enumerate(rewards) if j >= k) for k in range(len(rewards))]
        )
    advantages = []
    for row, episode in enumerate(turns):
        tokens = []
        for k, (length, _) in enumerate(episode):
            others = [g[k] for g, group in zip(returns, groups, strict=True) if group == groups[row] and len(g) > k]
            mean = sum(others) / len(others)
            spread = math.sqrt(sum((g - mean) ** 2 for g in others) / (len(others) - 1)) if len(others) > 1 else 0.0
            is_flat = spread <= 1e-6 * max(abs(mean), 1e-6)
            value = returns[row][k] - mean
            tokens += [
                0.0 if eps is not None and is_flat else value if eps is None else value / (spread + eps)
            ] * length
        advantages.append(tokens)
    return advantages


episodes = strategies.lists(
    strategies.lists(
        strategies.tuples(strategies.integers(1, 4), strategies.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=5
    ),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(deadline=None)
@given(
    episodes, strategies.sampled_from([1.0, 0.9, 0.0]), strategies.sampled_from(["group", "none"]), strategies.data()
)
def test_it_is_the_formula(turns, gamma, scale, data):
    """For episodes of any number of turns, in any groups, with rewards beside those of the turns."""
    groups = data.draw(strategies.lists(strategies.integers(0, 2), min_size=len(turns), max_size=len(turns)))
    extra = data.draw(strategies.lists(strategies.sampled_from([0.0, 0.5]), min_size=len(turns), max_size=len(turns)))
    totals = [sum(r for _, r in episode) + more for episode, more in zip(turns, extra, strict=True)]
    starts = [[sum(length for length, _ in episode[:k]) for k in range(len(episode))] for episode in turns]
    part = dt.advantage_estimators.turn(gamma=gamma, scale=scale)
    found = part.instance.estimate(
        rewards=torch.tensor(totals, dtype=torch.float64),
        groups=torch.tensor(groups),
        sampled=Ragged.from_rows([[7] * sum(length for length, _ in episode) for episode in turns]),
        steps=Ragged.from_rows(starts, dtype=torch.int64),
        step_rewards=Ragged.from_rows([[r for _, r in episode] for episode in turns], dtype=torch.float64),
    )
    expected = reference(turns, totals, groups, gamma, 1e-4 if scale == "group" else None)
    assert torch.allclose(found.values, torch.tensor([a for row in expected for a in row], dtype=torch.float64))


def test_in_a_single_turn_it_is_the_group_estimator():
    """The same number for every token."""
    rewards, groups = torch.tensor([1.0, 0.0, 0.5, 0.5, 2.0, 1.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    sampled = Ragged.from_rows([[1] * n for n in (3, 1, 2, 2, 4, 1)])
    ours = dt.advantage_estimators.turn().instance.estimate(
        rewards=rewards, groups=groups, sampled=sampled, steps=None, step_rewards=None
    )
    theirs = dt.advantage_estimators.group().instance.estimate(rewards, groups, None, None)
    assert torch.allclose(ours.values, sampled.spread(theirs).values)


def test_a_right_turn_is_praised_although_a_later_one_was_wrong():
    """Which one number for the whole episode cannot do."""
    found = dt.advantage_estimators.turn().instance.estimate(
        rewards=torch.tensor([0.25, 0.0]),
        groups=torch.tensor([0, 0]),
        sampled=Ragged.from_rows([[1, 1], [1, 1]]),
        steps=Ragged.from_rows([[0, 1], [0, 1]]),
        step_rewards=Ragged.from_rows([[0.25, 0.0], [0.0, 0.0]]),
    )
    first, second = found[0].tolist()
    assert first > 0
    assert second == 0
