"""The recipe keeps what recipes promise, and adds what its paper adds to PPO."""

import math

import pytest
import torch

import dovetail as dt
from dovetail import Ragged, recipes
from dovetail.runtime.reduce import StepCounts, reduce_terms
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_vapo.recipe import positive_nll, positive_weights


@pytest.mark.parametrize("check", part_checks("recipes", "vapo"), ids=str)
def test_conformance(check):
    """It keeps what every recipe promises."""
    check()


def test_it_is_a_difference_from_ppo():
    """Line by line; without the positive examples only options differ."""
    told = str(dt.diff(recipes.ppo, recipes.vapo))
    for line in (
        "~ completions.samples: 1 -> 16",
        "~ advantages.value_lam: None -> 1.0",
        "~ advantages.length_alpha: None -> 0.05",
        "~ advantages.kl_coef: 0.05 -> 0.0",
        "+ positive_loss: positive_nll(logprobs=policy_logprobs, weights=positive_weights)",
        "~ minibatches: 1 -> 16",
    ):
        assert line in told
    assert "(after 50 steps)" in told
    assert "positive" not in str(dt.diff(recipes.ppo, recipes.vapo(positive_coef=0.0)))


@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_is_the_mean_over_the_tokens_of_successes(seed):
    """Equation 13, value and gradient, float64; rows without a valid reward count nowhere."""
    rollouts = tiny_rollouts(lengths=(5, 1, 12, 0, 3, 7, 7, 4), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 2, (len(rollouts),), generator=draw).double()
    rewards[2] = math.nan
    weights = positive_weights(rewards, rollouts, above=0.0)
    kept = rewards.isfinite()
    chosen = rollouts.select(kept)
    logprobs = chosen.sampled.map(lambda t: -torch.rand(len(t), generator=draw, dtype=torch.float64).requires_grad_())
    terms = positive_nll(logprobs, weights[kept])
    counts = StepCounts(chosen.sampled.lengths, chosen.groups)
    loss = sum(reduce_terms(dt.LossTerms(terms.terms.select(rows)), counts, rows) for rows in torch.arange(7).split(2))
    (gradient,) = torch.autograd.grad(loss, logprobs.values)

    successes = [row for row, reward in zip(logprobs.tolist(), rewards[kept].tolist(), strict=True) if reward > 0]
    tokens = [value for row in successes for value in row]
    assert loss.item() == pytest.approx(-sum(tokens) / len(tokens))
    is_positive = logprobs.spread((rewards[kept] > 0).double()).values
    torch.testing.assert_close(gradient, -is_positive / len(tokens))


def test_without_a_success_nothing_is_imitated():
    """All wrong, or all invalid: weights of 0, and an invalid row stays invalid."""
    rollouts = tiny_rollouts(lengths=(2, 3), group_size=2)
    assert positive_weights(torch.zeros(2), rollouts, above=0.0).tolist() == [0.0, 0.0]
    found = positive_weights(torch.tensor([math.nan, 0.0]), rollouts, above=0.0)
    assert math.isnan(found[0])
    assert found[1] == 0


def test_all_successes_weigh_one():
    """Then it is plain likelihood."""
    rollouts = tiny_rollouts(lengths=(2, 3), group_size=2)
    assert positive_weights(torch.ones(2), rollouts, above=0.0).tolist() == [1.0, 1.0]
    terms = positive_nll(Ragged.from_rows([[-1.0, -2.0], [-3.0]]), torch.tensor([1.0, 0.5]))
    assert terms.terms.tolist() == [[1.0, 2.0], [1.5]]
