"""The recipe: sample groups, compare within them, take a clipped step."""

from __future__ import annotations

from typing import Any, Literal

import dovetail as dt
from dovetail_grpo.policy import Reduction


@dt.recipe
def grpo(
    policy: Any,
    ref_policy: Any,
    prompts: Any,
    *,
    group_size: int = 8,
    scale: Literal["group", "batch", "none"] = "group",
    baseline: Literal["mean", "leave_one_out", "none"] = "mean",
    spread: Literal["group", "leave_one_out"] = "group",
    combine: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize",
    eps: float = 1e-4,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    kl_estimator: Literal["k1", "k2", "k3"] = "k3",
    kl_bias_correction: bool = False,
    kl_clamp: bool = False,
    entropy_coef: float = 0.0,
    correction: Literal["none", "truncate", "mask"] = "none",
    correction_level: Literal["token", "sequence", "geometric"] = "token",
    correction_cap: float = 2.0,
    correction_floor: float = 0.5,
    reduction: Reduction = "token_mean",
    norm: float | None = None,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300), with DAPO's token mean by default.

    Args:
        group_size: Completions for each prompt. Usual range 4 to 32.
        scale: See the estimator ``group``.
        baseline: See the estimator ``group``.
        spread: See the estimator ``group``.
        combine: See the estimator ``group``.
        eps: See the estimator ``group``.
        clip: See the loss ``clipped``.
        clip_high: See the loss ``clipped``.
        dual_clip: See the loss ``clipped``.
        delta: See the loss ``clipped``.
        beta: Weight of the KL penalty; 0 loads no reference model.
        kl_estimator: See the loss ``clipped``.
        kl_bias_correction: See the loss ``clipped``.
        kl_clamp: See the loss ``clipped``.
        entropy_coef: Weight of the entropy bonus.
        correction: See the loss ``clipped``.
        correction_level: See the loss ``clipped``.
        correction_cap: See the loss ``clipped``.
        correction_floor: See the loss ``clipped``.
        reduction: How token terms are averaged.
        norm: Of ``sequence_sum_norm``.
        epochs: Times that each batch is learnt from. Usual range 1 to 4.
        minibatches: Optimizer steps in one epoch.
    """
    completions = dt.generate(policy, prompts, samples=group_size, name="completions")
    policy_logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
    ref_logprobs = dt.logprobs(ref_policy, prompts, completions, name="ref_logprobs")
    rewards = dt.run_rewards(completions)
    advantages = dt.advantages(
        "group", rewards, scale=scale, baseline=baseline, spread=spread, combine=combine, eps=eps, name="advantages"
    )
    loss = dt.loss(
        "clipped", advantages, policy_logprobs, ref_logprobs, name="loss",
        clip=clip, clip_high=clip_high, dual_clip=dual_clip, delta=delta,
        beta=beta, kl_estimator=kl_estimator, kl_bias_correction=kl_bias_correction, kl_clamp=kl_clamp,
        entropy_coef=entropy_coef,
        correction=correction, correction_level=correction_level, correction_cap=correction_cap,
        correction_floor=correction_floor, reduction=reduction, norm=norm,
    )  # fmt: skip
    dt.set_loss(loss, epochs=epochs, minibatches=minibatches)
