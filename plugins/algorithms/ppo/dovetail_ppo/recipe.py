"""The recipe: sample, price the distance to the reference, credit every token by a value model, take clipped steps."""

from __future__ import annotations

from typing import Any, Literal

import dovetail as dt


@dt.recipe
def ppo(
    policy: Any,
    ref_policy: Any,
    value_model: Any,
    prompts: Any,
    *,
    samples: int = 1,
    gamma: float = 1.0,
    lam: float = 0.95,
    value_lam: float | None = None,
    length_alpha: float | None = None,
    bootstrap: bool = False,
    whiten: bool = True,
    kl_coef: float = 0.05,
    kl_estimator: Literal["k1", "k3"] = "k1",
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    entropy_coef: float = 0.0,
    correction: Literal["none", "truncate", "mask"] = "none",
    correction_level: Literal["token", "sequence", "geometric"] = "token",
    correction_cap: float = 2.0,
    correction_floor: float = 0.5,
    reduction: Literal["token_mean", "sequence_mean"] = "token_mean",
    vf_coef: float = 0.1,
    value_clip: float | None = 0.2,
    value_pretraining: int = 0,
    epochs: int = 4,
    minibatches: int = 1,
) -> None:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) of a language model.

    As in Stiennon et al. 2020 (arXiv 2009.01325): the KL penalty is part of the reward of every token, the score stands
    at the last one. ``value_model`` may be an agent of its own or the policy, if it has a value head.

    Args:
        samples: Completions for each prompt. Usual value 1; VAPO 16.
        gamma: See the estimator ``gae``.
        lam: See the estimator ``gae``.
        value_lam: See the estimator ``gae``.
        length_alpha: See the estimator ``gae``.
        bootstrap: See the estimator ``gae``.
        whiten: See the estimator ``gae``.
        kl_coef: See the estimator ``gae``; the extension ``adaptive-kl`` moves it. 0 loads no reference model.
        kl_estimator: See the estimator ``gae``.
        clip: See the loss ``clipped``.
        clip_high: See the loss ``clipped``.
        dual_clip: See the loss ``clipped``.
        entropy_coef: Weight of the entropy bonus. Usual range 0 to 0.01.
        correction: See the loss ``clipped``.
        correction_level: See the loss ``clipped``.
        correction_cap: See the loss ``clipped``.
        correction_floor: See the loss ``clipped``.
        reduction: How the terms of both losses are averaged.
        vf_coef: Weight of the value loss. Matters where policy and value share weights. Usual range 0.1 to 1.
        value_clip: See the loss ``value``, its option ``clip``.
        value_pretraining: Steps at the start in which the value model learns and the policy does not. It needs a value
            model with weights of its own. VAPO: 50.
        epochs: Times that each batch is learnt from. Usual range 1 to 4.
        minibatches: Optimizer steps in one epoch. Usual range 1 to 8.
    """
    completions = dt.generate(policy, prompts, samples=samples, name="completions")
    policy_logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
    ref_logprobs = dt.logprobs(ref_policy, prompts, completions, name="ref_logprobs")
    values = dt.values(value_model, prompts, completions, name="values")
    rewards = dt.run_rewards(completions)
    advantages = dt.advantages(
        "gae", rewards, values, logprobs=policy_logprobs, ref_logprobs=ref_logprobs, name="advantages",
        gamma=gamma, lam=lam, value_lam=value_lam, length_alpha=length_alpha, bootstrap=bootstrap, whiten=whiten,
        kl_coef=kl_coef, kl_estimator=kl_estimator,
    )  # fmt: skip
    loss = dt.loss(
        "clipped", advantages, policy_logprobs, name="loss",
        clip=clip, clip_high=clip_high, dual_clip=dual_clip, entropy_coef=entropy_coef,
        correction=correction, correction_level=correction_level, correction_cap=correction_cap,
        correction_floor=correction_floor, reduction=reduction,
    )  # fmt: skip
    value_loss = dt.loss("value", values, advantages.returns, clip=value_clip, reduction=reduction, name="value_loss")
    dt.set_loss(loss, epochs=epochs, minibatches=minibatches, after=value_pretraining)
    dt.add_loss(value_loss, vf_coef)
