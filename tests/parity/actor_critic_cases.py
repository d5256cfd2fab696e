"""The estimator and the loss of a value model, beside the papers: recursions on single sequences, from their end."""

from __future__ import annotations

from typing import Any

import torch
from policy_cases import batch, shown
from torch import Tensor

import dovetail as dt
from dovetail_testing.loss_checks import loss_and_gradients
from parity import Side, case

GAE = "Schulman et al. 2016 (1506.02438)"
PRICED = "Ziegler et al. 2019 (1909.08593)"
VAPO = "Yue et al. 2025 (2504.05118)"


def recursion(deltas: Tensor, factor: float) -> Tensor:
    """Equation 16 of GAE from the end: A_t = δ_t + γλ A_{t+1}."""
    found = torch.zeros_like(deltas)
    for t in range(len(deltas) - 1, -1, -1):
        found[t] = deltas[t] + (factor * found[t + 1] if t + 1 < len(deltas) else 0.0)
    return found


def one_sequence(reward: Tensor, value: Tensor, after: Tensor, kl: Tensor, o: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Advantages and returns of one completion; ``after`` is the value that it continues with, 0 if it ended."""
    gamma, steps = o.get("gamma", 1.0), -o.get("kl_coef", 0.0) * kl
    steps[-1] = steps[-1] + reward
    deltas = steps + gamma * torch.cat([value[1:], after[None]]) - value
    lam = o.get("lam", 0.95)
    if "length_alpha" in o:
        lam = max(0.0, 1 - 1 / (o["length_alpha"] * len(value)))
    return recursion(deltas, gamma * lam), recursion(deltas, gamma * o.get("value_lam", lam)) + value


def estimator_case(options: dict[str, Any], source: str) -> None:
    """``gae`` with these options and the recursion, advantages and returns side by side."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        draw = torch.Generator().manual_seed(seed)
        rewards, finals = (torch.randn(len(rollouts), generator=draw, dtype=dtype) for _ in range(2))
        truncated = rollouts.truncated & options.get("bootstrap", False)
        part = dt.advantage_estimators["gae"](**options).instance
        named = {
            "rewards": rewards, "final_values": finals, "truncated": rollouts.truncated, "values": given["values"],
            "logprobs": given["logprobs"], "ref_logprobs": given["ref_logprobs"],
        }  # fmt: skip
        found = part.estimate(**{name: None if name in part.ignores() else value for name, value in named.items()})
        kl = (given["logprobs"].map(Tensor.double) - given["ref_logprobs"].map(Tensor.double)).values
        rows = zip(
            rewards.double(), given["values"].map(Tensor.double), (finals * truncated).double(),
            given["values"].with_values(kl), strict=True,
        )  # fmt: skip
        credit, returns = zip(*(one_sequence(*row, options) for row in rows), strict=True)
        advantages = torch.cat(credit)
        if options.get("whiten"):
            advantages = (advantages - advantages.mean()) / torch.sqrt(advantages.var() + 1e-8)
        ours = torch.cat([found.advantages.values, found.returns.values])
        return (ours, {}), (torch.cat([advantages, *returns]), {})

    case(shown("gae", options), source)(run)


for options, source in [
    ({}, GAE),
    ({"gamma": 0.99, "lam": 0.9, "bootstrap": True}, GAE),
    ({"whiten": True}, GAE),
    ({"kl_coef": 0.05}, PRICED),
    ({"value_lam": 1.0, "length_alpha": 0.2}, VAPO),
]:
    estimator_case(options, source)


def value_case(options: dict[str, Any]) -> None:
    """The value loss and the one of PPO's reference implementation, means over all tokens."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        value, gradients = loss_and_gradients(dt.losses["value"](**options), rollouts, given)
        live = given["values"].values.double().requires_grad_()
        old, target = given["old_values"].values.double(), given["returns"].values.double()
        errors, clip = (live - target) ** 2, options.get("clip", 0.2)
        if clip is not None:
            errors = torch.maximum(errors, (old + (live - old).clamp(-clip, clip) - target) ** 2)
        loss = 0.5 * errors.mean()
        loss.backward()
        return (value, {"values": gradients["values"].values}), (loss.detach(), {"values": live.grad})

    case(shown("value", options), "Schulman et al. 2017 (1707.06347)")(run)


for options in ({}, {"clip": 0.5}, {"clip": None}):
    value_case(options)
