"""The estimator and the value loss against textbook loops."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import Ragged, advantage_estimators, losses
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_actor_critic.gae import GAE
from dovetail_actor_critic.value import ValueLoss
from dovetail_testing.loss_checks import inputs

CHECKS = [
    *(check for options in ({}, {"gamma": 0.9, "lam": 0.5, "whiten": True})
      for check in part_checks("advantages", "gae", options=options)),
    *(check for options in ({}, {"clip": None}, {"reduction": "sequence_mean"})
      for check in part_checks("losses", "value", options=options)),
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises."""
    check()


ROW = st.tuples(st.lists(st.floats(-2, 2), max_size=6), st.floats(-3, 3), st.floats(-2, 2), st.booleans())


def textbook(values, reward, final, truncated, gamma, lam):
    """A_t = sum over k of (gamma lam)^k delta_{t+k}, written as the double sum."""
    deltas = []
    for t, value in enumerate(values):
        last = t == len(values) - 1
        following = (final if truncated else 0.0) if last else values[t + 1]
        deltas.append((reward if last else 0.0) + gamma * following - value)
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(values))) for t in range(len(values))]


@settings(deadline=None)
@given(
    st.lists(ROW, min_size=1, max_size=5),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_gae_is_the_textbook_sum(rows, gamma, lam):
    """Rows of any length, ended or cut, float64."""
    values = Ragged.from_rows([row[0] for row in rows], dtype=torch.float64)
    rewards, finals = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in (1, 2))
    truncated = torch.tensor([row[3] for row in rows])
    found = GAE(gamma=gamma, lam=lam).estimate(rewards, values, finals, truncated)
    expected = [a for v, r, f, t in rows for a in textbook(v, r, f, t, gamma, lam)]
    assert found.advantages.values.tolist() == pytest.approx(expected, abs=1e-9)
    assert found.returns.values.tolist() == pytest.approx(
        [a + v for a, v in zip(expected, values.values.tolist(), strict=True)]
    )


def test_only_a_cut_completion_is_continued_by_its_last_value():
    """One token, λ = 1: the advantage is R - V, plus the value after it where the token limit cut."""
    values, finals = Ragged.from_rows([[0.5], [0.5]]), torch.tensor([10.0, 10.0])
    found = GAE().estimate(torch.tensor([1.0, 1.0]), values, finals, torch.tensor([False, True]))
    assert found.advantages.values.tolist() == [0.5, 10.5]
    assert found.returns.values.tolist() == [1.0, 11.0]


def test_nothing_sampled_gives_nothing():
    """No rows, and only empty rows."""
    for rows in (0, 3):
        values = Ragged.from_rows([torch.zeros(0)] * rows)
        found = GAE(whiten=True).estimate(torch.ones(rows), values, torch.ones(rows), torch.ones(rows).bool())
        assert found.advantages.values.tolist() == found.returns.values.tolist() == []


def test_a_large_batch_takes_a_moment():
    """512 rows of 512 tokens in well under a second; a loop over tokens takes many."""
    values = Ragged.from_rows([torch.zeros(512)] * 512)
    rewards, truncated = torch.ones(512), torch.zeros(512, dtype=torch.bool)
    started = time.perf_counter()
    GAE().estimate(rewards, values, rewards, truncated)
    assert time.perf_counter() - started < 2


def test_whitening_leaves_the_returns():
    """Advantages get mean 0 and variance 1; returns are taken before."""
    values = Ragged.from_rows([[0.1, 0.2, 0.3], [0.5]])
    arguments = (torch.tensor([1.0, -1.0]), values, torch.zeros(2), torch.tensor([False, False]))
    plain, white = GAE().estimate(*arguments), GAE(whiten=True).estimate(*arguments)
    assert white.returns.tolist() == plain.returns.tolist()
    assert white.advantages.values.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert white.advantages.values.var().item() == pytest.approx(1.0, rel=1e-4)


def value_term(value, target, before, clip):
    """Half the larger of the squared errors, in Python floats."""
    errors = [(value - target) ** 2]
    if clip is not None:
        errors.append((before + max(-clip, min(clip, value - before)) - target) ** 2)
    return 0.5 * max(errors)


@pytest.mark.parametrize("clip", [None, 0.2, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_value_loss_is_its_definition(clip, seed):
    """Token by token, and the gradient against central differences."""
    given_values = inputs(tiny_rollouts(), seed=seed)
    v, r, old = (given_values[name] for name in ("values", "returns", "old_values"))
    live = v.with_values(v.values.clone().requires_grad_())
    found = ValueLoss(clip=clip).loss_terms(live, r, old if clip else None).terms.values
    rows = list(zip(v.values.tolist(), r.values.tolist(), old.values.tolist(), strict=True))
    assert found.tolist() == pytest.approx([value_term(*row, clip) for row in rows])
    found.sum().backward()
    step = 1e-6
    slopes = [(value_term(x + step, y, z, clip) - value_term(x - step, y, z, clip)) / (2 * step) for x, y, z in rows]
    assert live.values.grad.tolist() == pytest.approx(slopes, abs=1e-5)


def test_the_target_may_be_a_reward_per_sequence():
    """Every token of a row is then regressed on the row's reward."""
    values = Ragged.from_rows([[0.0, 1.0], [2.0]])
    found = ValueLoss(clip=None).loss_terms(values, torch.tensor([1.0, 4.0]), None)
    assert found.terms.values.tolist() == [0.5, 0.0, 2.0]


@pytest.mark.parametrize(
    ("factory", "options", "told"),
    [
        (advantage_estimators["gae"], {"gamma": 1.5}, "'gamma' must be <= 1"),
        (advantage_estimators["gae"], {"lam": -0.1}, "'lam' must be >= 0"),
        (losses["value"], {"clip": 0.0}, "'clip' must be > 0"),
        (losses["value"], {"reduction": "prompt_mean"}, "reduction"),
    ],
)
def test_options_that_do_not_fit_are_refused(factory, options, told):
    """The error names the option."""
    with pytest.raises(OptionError, match=told):
        factory(**options)
