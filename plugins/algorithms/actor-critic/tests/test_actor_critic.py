"""The estimator and the value loss against textbook loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import Ragged, advantage_estimators, losses
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_actor_critic.gae import GAE, adaptive_lam
from dovetail_actor_critic.value import ValueLoss
from dovetail_testing.loss_checks import inputs

CHECKS = [
    *(check for options in ({}, {"gamma": 0.9, "lam": 0.5, "whiten": True}, {"kl_coef": 0.1, "bootstrap": True},
                            {"length_alpha": 0.2, "value_lam": 1.0, "kl_coef": 0.1, "kl_estimator": "k3"})
      for check in part_checks("advantages", "gae", options=options)),
    *(check for options in ({}, {"clip": None}, {"reduction": "sequence_mean"})
      for check in part_checks("losses", "value", options=options)),
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises."""
    check()


ROW = st.tuples(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-1, 1)), max_size=6),
    st.floats(-3, 3),
    st.floats(-2, 2),
    st.booleans(),
)
SETTINGS = st.fixed_dictionaries(
    {
        "gamma": st.floats(0, 1),
        "lam": st.floats(0, 1),
        "value_lam": st.none() | st.floats(0, 1),
        "length_alpha": st.none() | st.floats(0.1, 2),
        "bootstrap": st.booleans(),
        "kl_coef": st.sampled_from([0.0, 0.3]),
        "kl_estimator": st.sampled_from(["k1", "k3"]),
    }
)


def textbook(row, o):
    """A_t = sum over k of (gamma lam)^k delta_{t+k}, written as the double sum; the same by value_lam, plus V."""
    tokens, reward, final, truncated = row
    values, count = [value for value, _ in tokens], len(tokens)
    deltas = []
    for t, (value, gap) in enumerate(tokens):
        last = t == count - 1
        following = (final if truncated and o["bootstrap"] else 0.0) if last else values[t + 1]
        kl = -gap if o["kl_estimator"] == "k1" else math.exp(gap) - gap - 1
        deltas.append((reward if last else 0.0) - o["kl_coef"] * kl + o["gamma"] * following - value)

    def sums(lam):
        return [sum((o["gamma"] * lam) ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)]

    lam = o["lam"]
    if o["length_alpha"] is not None and count:
        lam = max(0.0, 1 - 1 / (o["length_alpha"] * count))
    targets = sums(lam if o["value_lam"] is None else o["value_lam"])
    return sums(lam), [a + v for a, v in zip(targets, values, strict=True)]


def estimated(rows, **options):
    """What the estimator makes of rows of (value, ref - policy) pairs, a reward, a final value, and whether it was cut."""
    values, gaps = (
        Ragged.from_rows([[token[i] for token in row[0]] for row in rows], dtype=torch.float64) for i in (0, 1)
    )
    rewards, finals = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in (1, 2))
    logprobs = gaps.map(lambda each: torch.full_like(each, -1.5))
    part = GAE(**options)
    given = {
        "rewards": rewards, "values": values, "final_values": finals, "truncated": torch.tensor([row[3] for row in rows]),
        "logprobs": logprobs, "ref_logprobs": logprobs + gaps,
    }  # fmt: skip
    return part.estimate(**{name: None if name in part.ignores() else value for name, value in given.items()})


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), SETTINGS)
def test_gae_is_the_textbook_sum(rows, options):
    """Rows of any length, ended or cut, with and without a price of KL, one λ or two, fixed or by length; float64."""
    found = estimated(rows, **options)
    expected = [textbook(row, options) for row in rows]
    assert found.advantages.values.tolist() == pytest.approx([a for one, _ in expected for a in one], abs=1e-9)
    assert found.returns.values.tolist() == pytest.approx([r for _, one in expected for r in one], abs=1e-9)


@pytest.mark.parametrize(("bootstrap", "cut"), [(True, [10.5, 11.0]), (False, [0.5, 1.0])])
def test_only_a_cut_completion_is_continued_by_its_last_value(bootstrap, cut):
    """One token, λ = 1: the advantage is R - V, plus the value after it where the token limit cut, if that is wanted."""
    rows = [([(0.5, 0.0)], 1.0, 10.0, False), ([(0.5, 0.0)], 1.0, 10.0, True)]
    found = estimated(rows, bootstrap=bootstrap)
    assert [found.advantages.values.tolist(), found.returns.values.tolist()] == [[0.5, cut[0]], [1.0, cut[1]]]


def test_the_price_of_the_reference_is_told():
    """The sum over a sequence, averaged over sequences, in nats; and how much the values explain."""
    rows = [([(0.0, -0.5), (1.0, -1.0)], 1.0, 0.0, False), ([(0.5, 0.25)], 2.0, 0.0, False)]
    metrics = estimated(rows, kl_coef=0.1, lam=1.0).metrics
    assert metrics["kl"] == pytest.approx((1.5 - 0.25) / 2)
    assert metrics["kl_coef"] == 0.1
    returns = torch.tensor([1.0 - 0.15, 1.0 - 0.1, 2.0 + 0.025])
    left = (returns - torch.tensor([0.0, 1.0, 0.5])).var() / returns.var()
    assert metrics["explained_variance"] == pytest.approx(1 - left.item(), rel=1e-5)


def test_lambda_grows_with_the_completion():
    """VAPO, section 4.1: λ = 1 - 1 / (0.05 · 100) = 0.8; a completion too short for the formula gets 0."""
    assert adaptive_lam(torch.tensor([100.0, 10.0, 0.0]), 0.05).tolist() == pytest.approx([0.8, 0.0, 0.0])


@pytest.mark.parametrize(("row", "place"), [(0, "values"), (1, "final_values")])
def test_values_that_are_not_finite_are_refused(row, place):
    """The first sequence is named, and what to do."""
    rows = [([(0.0, 0.0)], 1.0, 0.0, True) for _ in range(2)]
    rows[row] = (
        [(math.nan if place == "values" else 0.0, 0.0)],
        1.0,
        math.inf if place == "final_values" else 0.0,
        True,
    )
    with pytest.raises(ValueError, match=f"not finite, first in sequence {row}; lower its learning rate"):
        estimated(rows, bootstrap=True)


def test_nothing_sampled_gives_nothing():
    """No rows, and only empty rows."""
    for rows in (0, 3):
        values = Ragged.from_rows([torch.zeros(0)] * rows)
        found = GAE(whiten=True).estimate(
            torch.ones(rows), values, torch.ones(rows), torch.ones(rows).bool(), None, None
        )
        assert found.advantages.values.tolist() == found.returns.values.tolist() == []


def test_whitening_leaves_the_returns():
    """Advantages get mean 0 and variance 1; returns are taken before."""
    values = Ragged.from_rows([[0.1, 0.2, 0.3], [0.5]])
    arguments = (torch.tensor([1.0, -1.0]), values, torch.zeros(2), torch.tensor([False, False]), None, None)
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
        (advantage_estimators["gae"], {"length_alpha": 0.0}, "'length_alpha' must be > 0"),
        (advantage_estimators["gae"], {"kl_coef": -1.0}, "'kl_coef' must be >= 0"),
        (advantage_estimators["gae"], {"kl_estimator": "k2"}, "kl_estimator"),
        (losses["value"], {"clip": 0.0}, "'clip' must be > 0"),
        (losses["value"], {"reduction": "prompt_mean"}, "reduction"),
    ],
)
def test_options_that_do_not_fit_are_refused(factory, options, told):
    """The error names the option."""
    with pytest.raises(OptionError, match=told):
        factory(**options)
