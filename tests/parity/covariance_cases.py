"""Clip-Cov and KL-Cov beside the formulas of Cui et al. 2025, in float64, over a batch as one list of tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from policy_cases import batch, shown
from torch import Tensor

import dovetail as dt
from dovetail.runtime.reduce import StepCounts, reduce_terms
from dovetail_covariance.tokens import distance, most_covariant, spared
from dovetail_testing.loss_checks import loss_and_gradients
from parity import Side, case

CUI = "Cui et al. 2025 (2505.22617)"


def covariance(credit: Tensor, logprobs: Tensor) -> Tensor:
    """Equation 10."""
    return (logprobs - logprobs.mean()) * (credit - credit.mean())


def tokens(given: dict[str, dt.Ragged]) -> tuple[Tensor, Tensor, Tensor]:
    """Live log-probs, old ones, advantages; every token of the batch."""
    live, old, credit = (given[name].values.double() for name in ("logprobs", "old_logprobs", "advantages"))
    return live.clone().requires_grad_(), old, credit


def finished(loss: Tensor, live: Tensor) -> Side:
    loss.backward()
    assert live.grad is not None
    return loss.detach(), {"logprobs": live.grad}


options: dict[str, Any] = {"share": 1.0, "low": 0.1, "high": 0.8}


@case(shown("clip-cov", options), CUI)
def clip_cov(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
    """Equation 12: tokens between the bounds, all of them here, have no gradient; the others are clipped as ever."""
    rollouts, given = batch(seed, dtype)
    scores = dt.Scores.ok(torch.zeros(len(rollouts)))
    found = asyncio.run(spared(given["advantages"], given["old_logprobs"], scores, rollouts, **options))
    value, gradients = loss_and_gradients(dt.losses.clipped(), rollouts, {**given, "advantages": found["kept"]})
    live, old, credit = tokens(given)
    between = covariance(credit, old)
    keeps = 1.0 - ((between > 0.1) & (between < 0.8)).double()
    ratio = (live - old).exp()
    terms = -torch.minimum(ratio * credit, ratio.clamp(0.8, 1.2) * credit) * keeps
    return (value, {"logprobs": gradients["logprobs"].values}), finished(terms.mean(), live)


@case(shown("kl-cov", {"share": 0.3, "kl_cov_coef": 0.5}), CUI)
def kl_cov(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
    """Equation 13: the three tenths of highest covariance pay for every nat."""
    rollouts, given = batch(seed, dtype)
    scores = dt.Scores.ok(torch.zeros(len(rollouts)))
    found = asyncio.run(most_covariant(given["advantages"], given["old_logprobs"], scores, share=0.3))
    part = dt.losses["importance-sampling"]()
    value, gradients = loss_and_gradients(part, rollouts, given)
    ours = given["logprobs"].with_values(given["logprobs"].values.clone().requires_grad_())
    paid = distance(ours, found["old"], found["chosen"], coef=0.5, reduction="token_mean", norm=None)
    price = reduce_terms(paid, StepCounts(rollouts.sampled.lengths, rollouts.groups), torch.arange(len(rollouts)))
    price.backward()
    live, old, credit = tokens(given)
    highest = covariance(credit, old).topk(int(0.3 * len(old))).indices
    terms = -(live - old).exp() * credit
    loss = terms.mean() + 0.5 * (live - old).abs()[highest].sum() / len(old)
    return (value + price.detach(), {"logprobs": gradients["logprobs"].values + ours.values.grad}), finished(loss, live)
