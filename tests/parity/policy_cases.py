"""Policy losses and group estimators, beside TRL's own trainers and the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import trl_side
from torch import Tensor

import dovetail as dt
from dovetail.testing import tiny_rollouts
from dovetail_testing.loss_checks import inputs, loss_and_gradients
from parity import Side, case


def batch(seed: int, dtype: torch.dtype) -> tuple[Any, dict[str, dt.Ragged]]:
    """Rollouts with ragged rows, and made-up values for every argument of a loss; advantages per sequence."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 15, (8,), generator=draw).tolist()
    rollouts = tiny_rollouts(lengths=lengths, seed=seed)
    given = inputs(rollouts, seed=seed, spread=0.4, dtype=dtype)
    credit = torch.randn(len(rollouts), generator=draw, dtype=dtype)
    return rollouts, {**given, "advantages": rollouts.sampled.spread(credit)}


def ours(name: str, options: dict[str, Any], rollouts: Any, given: dict[str, dt.Ragged]) -> Side:
    """A loss part's value and gradient by the policy's log-probs."""
    value, gradients = loss_and_gradients(dt.losses[name](**options), rollouts, given)
    return value, {"logprobs": gradients["logprobs"].values}


def trl_case(name: str, options: dict[str, Any], trl: dict[str, Any], trainer: str = "GRPO") -> None:
    """A loss of ours and the configuration that means the same in TRL."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        return ours(name, options, rollouts, given), trl_side.policy_loss(rollouts, given, trl, trainer)

    case(shown(name, options), "trl")(run)


def shown(name: str, options: dict[str, Any]) -> str:
    """A part as the page shows it."""
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"


plain = {"use_bias_correction_kl": False}
for name, options, trl in [
    ("clipped", {}, {"loss_type": "dapo"}),
    ("clipped", {"clip_high": 0.28, "delta": 1.5}, {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.5}),
    ("clipped", {"reduction": "sequence_mean"}, {"loss_type": "grpo"}),
    (
        "clipped",
        {"reduction": "sequence_sum_norm", "norm": 20.0},
        {"loss_type": "dr_grpo", "max_completion_length": 20},
    ),
    ("clipped", {"beta": 0.1}, {"loss_type": "bnpo", "beta": 0.1, **plain}),
    ("clipped", {"beta": 0.1, "kl_bias_correction": True}, {"loss_type": "dapo", "beta": 0.1}),
    ("clipped", {"entropy_coef": 0.01}, {"loss_type": "dapo", "entropy_coef": 0.01}),
]:
    trl_case(name, options, trl)

sequence = {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 3e-4, "epsilon_high": 4e-4}
wide = {**sequence, "epsilon": 0.2, "epsilon_high": 0.2}
for name, options, trl in [
    ("gspo", {"reduction": "sequence_mean"}, sequence),
    ("gspo", {"reduction": "sequence_mean", "clip": 0.2, "clip_high": None}, wide),
    ("cispo", {}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    ("cispo", {"cap": 1.2}, {"loss_type": "cispo", "epsilon_high": 1.2}),
    ("sapo", {"reduction": "sequence_mean"}, {"loss_type": "sapo"}),
]:
    trl_case(name, options, trl)
trl_case("gmpo", {}, {}, trainer="GMPO")
trl_case("gmpo", {"clip": 0.1, "beta": 0.1}, {"epsilon": 0.1, "beta": 0.1}, trainer="GMPO")


def paper_case(name: str, options: dict[str, Any], source: str, loss: Callable[..., Tensor]) -> None:
    """A loss of ours and a reference that is a sum over sequences: ``loss(logprobs, old, advantage)`` of one."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        live = [row.double().requires_grad_() for row in given["logprobs"]]
        others = zip(live, given["old_logprobs"], given["advantages"], strict=True)
        total = torch.stack([loss(row, old.double(), credit[0].double()) for row, old, credit in others]).mean()
        total.backward()
        return ours(name, options, rollouts, given), (total.detach(), {"logprobs": torch.cat([r.grad for r in live])})

    case(shown(name, options), source)(run)


def geometric_mean(logprobs: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """Equation 4 of GMPO: the product of clipped ratios to the power of 1 / length, the clip at exp(±0.4)."""
    ratio = torch.exp(logprobs - old)
    clipped = ratio.clamp(math.exp(-0.4), math.exp(0.4))
    least = torch.minimum(ratio * advantage.sign(), clipped * advantage.sign()).abs()
    return -advantage * least.prod() ** (1 / len(logprobs))


def mirror_descent(logprobs: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """Section 2.3.2 of Kimi k1.5, with τ = 0.1."""
    return -advantage * logprobs.sum() + 0.05 * (logprobs.sum() - old.sum()) ** 2


def token_ratio(logprobs: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """Equation 13 of GSPO: the value of the sequence's ratio, the gradient of each token's."""
    ratio = torch.exp((logprobs - old).mean()).detach() * torch.exp(logprobs - logprobs.detach())
    return -torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean()


paper_case("gmpo", {}, "Zhao et al. 2025 (2507.20673)", geometric_mean)
paper_case("mirror-descent", {}, "Kimi team 2025 (2501.12599)", mirror_descent)
gspo_token = {"level": "token", "clip": 0.1, "clip_high": 0.1, "reduction": "sequence_mean"}
paper_case("gspo", gspo_token, "Zheng et al. 2025 (2507.18071)", token_ratio)
paper_case("reinforce", {"reduction": "sequence_sum_mean"}, "Williams 1992", lambda lp, old, credit: -credit * lp.sum())
