"""Policy losses and group estimators, beside TRL's own trainers and the papers."""

from __future__ import annotations

from typing import Any

import torch
import trl_side

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


def trl_case(name: str, options: dict[str, Any], trl: dict[str, Any]) -> None:
    """A loss of ours and the GRPOConfig that means the same in TRL."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        return ours(name, options, rollouts, given), trl_side.grpo_loss(rollouts, given, trl)

    text = ", ".join(f"{key}={value}" for key, value in options.items())
    case(f"{name}({text})", "trl")(run)


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
