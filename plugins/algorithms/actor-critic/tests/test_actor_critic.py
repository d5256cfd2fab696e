"""The estimator and the value loss against textbook loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import Ragged
from dovetail.testing import part_checks, tiny_rollouts
from dovetail.testing.loss_checks import inputs
from dovetail_actor_critic.gae import GAE
from dovetail_actor_critic.value import ValueLoss

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
    st.lists(
        st.tuples(st.lists(st.floats(-2, 2), max_size=6), st.floats(-3, 3), st.floats(-2, 2), st.booleans()),
        min_size=1,
        max_size=5,
    ),
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


def test_whitening_leaves_the_returns():
    """Advantages get mean 0 and variance 1; returns are taken before."""
    values = Ragged.from_rows([[0.1, 0.2, 0.3], [0.5]])
    arguments = (torch.tensor([1.0, -1.0]), values, torch.zeros(2), torch.tensor([False, False]))
    plain, white = GAE().estimate(*arguments), GAE(whiten=True).estimate(*arguments)
    assert white.returns.tolist() == plain.returns.tolist()
    assert white.advantages.values.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert white.advantages.values.var().item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_value_loss_is_its_definition(clip):
    """Half the larger of the squared errors."""
    given_values = inputs(tiny_rollouts())
    v, r, old = (given_values[name] for name in ("values", "returns", "old_values"))
    found = ValueLoss(clip=clip).loss_terms(v, r, old if clip else None).terms.values.tolist()
    expected = []
    for value, target, before in zip(v.values.tolist(), r.values.tolist(), old.values.tolist(), strict=True):
        moved = before + max(-0.2, min(0.2, value - before))
        errors = [(value - target) ** 2] + ([(moved - target) ** 2] if clip else [])
        expected.append(0.5 * max(errors))
    assert found == pytest.approx(expected)
