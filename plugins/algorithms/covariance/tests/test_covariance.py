"""Which tokens are held back, and what they pay, against plain loops written from the paper."""

from __future__ import annotations

import asyncio
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dovetail as dt
from dovetail import Ragged, losses, recipes
from dovetail.runtime.reduce import StepCounts, reduce_terms
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_covariance.tokens import distance, most_covariant, spared
from dovetail_testing.loss_checks import inputs, pushes_by_advantage

OPTIONS = [{}, {"beta": 0.1, "correction": "truncate"}]
CHECKS = [
    *(check for options in OPTIONS for check in part_checks("losses", "importance-sampling", options=options)),
    *(check for name in ("clip-cov", "kl-cov") for check in part_checks("recipes", name)),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


def test_on_policy_the_gradient_is_reinforce():
    """At old = logprobs the loss pushes by -advantage."""
    pushes_by_advantage(losses["importance-sampling"]())


ROWS = st.lists(
    st.tuples(st.lists(st.tuples(st.floats(-2, 2), st.floats(-4, 0)), min_size=0, max_size=4), st.booleans()),
    min_size=1,
    max_size=6,
)


def batch(rows):
    """Advantages, log-probs and scores of rows of (advantage, log-prob) and whether the row is valid."""
    credit, logprobs = (
        Ragged.from_rows([torch.tensor([pair[at] for pair in row], dtype=torch.float64) for row, _ in rows])
        for at in (0, 1)
    )
    status = torch.tensor([0 if valid else 1 for _, valid in rows], dtype=torch.uint8)
    return credit, logprobs, dt.Scores(torch.zeros(len(rows)), status)


def plain_covariances(rows):
    """Equation 10, one token after the other; None where a row does not count."""
    counted = [pair for row, valid in rows if valid for pair in row]
    if not counted:
        return [None for row, _ in rows for _ in row]
    credit, lp = (statistics.fmean(pair[at] for pair in counted) for at in (0, 1))
    return [(a - credit) * (p - lp) if valid else None for row, valid in rows for a, p in row]


@settings(deadline=None)
@given(ROWS, st.floats(0.01, 1))
def test_the_tokens_of_highest_covariance_pay(rows, share):
    """As many as the share says, at least one, and no other has more."""
    credit, logprobs, scores = batch(rows)
    found = asyncio.run(most_covariant(credit, logprobs, scores, share=share))
    expected = plain_covariances(rows)
    inside = [c for c in expected if c is not None]
    many = min(max(int(share * len(inside)), 1), len(inside))
    chosen = found["chosen"].values.bool().tolist()
    assert sum(chosen) == many
    assert not any(taken and c is None for taken, c in zip(chosen, expected, strict=True))
    least = min((c for taken, c in zip(chosen, expected, strict=True) if taken), default=0.0)
    assert all(c <= least + 1e-9 for taken, c in zip(chosen, expected, strict=True) if not taken and c is not None)
    if inside:
        assert found["metrics"]["covariance"] == pytest.approx(statistics.fmean(inside), abs=1e-9)
        assert found["metrics"]["share"] == pytest.approx(many / len(inside))


@settings(deadline=None)
@given(ROWS, st.floats(0.01, 1), st.floats(-1, 0.5))
def test_tokens_between_the_bounds_are_spared(rows, share, low):
    """As many as the share says, at least one if there is one; all other advantages stay as they are."""
    credit, logprobs, scores = batch(rows)
    rollouts = tiny_rollouts(lengths=[len(row) for row, _ in rows], group_size=1)
    run = spared(credit, logprobs, scores, rollouts, share=share, low=low, high=low + 1)
    found = asyncio.run(run)["kept"]
    expected = plain_covariances(rows)
    inside = [c is not None and low < c < low + 1 for c in expected]
    changed = [a != b for a, b in zip(found.values.tolist(), credit.values.tolist(), strict=True)]
    assert all(may for may, has in zip(inside, changed, strict=True) if has)
    assert all(value == 0 for value, has in zip(found.values.tolist(), changed, strict=True) if has)
    many = min(max(int(share * sum(c is not None for c in expected)), 1), sum(inside))
    assert sum(changed) <= many
    if share == 1:
        assert all(value == 0 for value, may in zip(found.values.tolist(), inside, strict=True) if may)


def test_the_draw_follows_from_the_tokens():
    """The same batch gives the same draw, another batch another one; the global generator is left alone."""
    rollouts, others = (tiny_rollouts(lengths=[40, 40, 40, 40], seed=seed) for seed in (0, 1))
    given = inputs(rollouts)
    scores = dt.Scores.ok(torch.zeros(4))
    state = torch.random.get_rng_state()

    def drawn(of):
        run = spared(given["advantages"], given["logprobs"], scores, of, share=0.1, low=0.0, high=9.0)
        return (asyncio.run(run)["kept"].values == 0).tolist()

    assert drawn(rollouts) == drawn(rollouts) != drawn(others)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("cut", [1, 3, 8])
def test_the_price_is_averaged_as_the_loss(cut, reduction):
    """Value and gradient against a plain mean, however the batch is cut; float64."""
    rollouts = tiny_rollouts(lengths=[3, 1, 7, 2, 5, 4, 1, 6])
    given = inputs(rollouts)
    live = given["logprobs"].with_values(given["logprobs"].values.clone().requires_grad_())
    chosen = given["old_logprobs"].map(lambda values: (torch.arange(len(values)) % 3 == 0).double())
    counts = StepCounts(rollouts.sampled.lengths, rollouts.groups)

    def share_of(rows):
        pieces = [each.select(rows) for each in (live, given["old_logprobs"], chosen)]
        return reduce_terms(distance(*pieces, coef=0.5, reduction=reduction, norm=None), counts, rows)

    found = sum(share_of(rows) for rows in torch.arange(8).split(cut))
    (gradient,) = torch.autograd.grad(found, live.values)
    plain = [row.double().requires_grad_() for row in given["logprobs"]]
    paid = [0.5 * (row - old).abs() * at for row, old, at in zip(plain, given["old_logprobs"], chosen, strict=True)]
    total = torch.cat(paid).mean() if reduction == "token_mean" else torch.stack([row.mean() for row in paid]).mean()
    total.backward()
    assert found.item() == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(gradient, torch.cat([row.grad for row in plain]))


def test_they_are_differences_from_grpo():
    """One node before the loss; or another loss and its price."""
    told = str(dt.diff(recipes.grpo, recipes["clip-cov"]))
    assert "+ spared: spared(" in told
    assert "loss" in told
    told = str(dt.diff(recipes.grpo, recipes["kl-cov"]))
    assert "+ most_covariant: most_covariant(" in told
    assert "importance-sampling" in told


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("clip-cov", {"share": 0.0}, "clip-cov draws a share"),
        ("clip-cov", {"low": 5.0, "high": 1.0}, "low is below high"),
        ("kl-cov", {"kl_cov_coef": -1.0}, "kl_cov_coef not below 0"),
        ("kl-cov", {"clip": 0.3}, "has no option 'clip'"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, told):
    """When the recipe is traced, with the way out."""
    with pytest.raises(dt.RecipeError) as error:
        recipes[name](**options).trace()
    assert told in str(error.value) + error.value.hint
