"""What every policy loss shares: the penalties, the weights against the sampler, the reduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs.validators import ge, gt, in_, optional

from dovetail import hookimpl
from dovetail_grpo.terms import bounded, kl_terms, sampler_ratios

if TYPE_CHECKING:
    from dovetail import LossTerms, Ragged

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum_mean", "sequence_sum_norm", "prompt_mean"]
REDUCTIONS: tuple[str, ...] = Reduction.__args__
_AVERAGES = {
    "token_mean": "averaged over all tokens of the step",
    "sequence_mean": "averaged over the tokens of each sequence, then over sequences",
    "sequence_sum_mean": "summed over the tokens of each sequence, averaged over sequences",
    "sequence_sum_norm": "summed over all tokens, divided by {norm:g} times the number of sequences",
    "prompt_mean": "averaged over the tokens of each prompt, then over prompts",
}
_KL = {"k1": "−d", "k2": "d² / 2", "k3": "exp(d) − d − 1"}


@attrs.frozen
class PolicyTerms:
    """Terms of a policy loss per token, before weights and penalties.

    Args:
        terms: With gradient.
        ratio: Of the policy to the one before the batch, per token, with gradient; None if the loss takes none.
        metrics: Per token, detached.
    """

    terms: Ragged
    ratio: Ragged | None
    metrics: Mapping[str, Ragged]


@attrs.frozen
class PolicyLoss:
    """A policy term per token, weighted against the sampler, plus penalties. A loss of its own gives ``policy_terms``.

    KL estimators: Schulman 2020, "Approximating KL divergence". Shapes: every argument is a Ragged over the sampled
    tokens.

    Args:
        beta: Weight of the KL penalty against the reference; 0 needs no reference. Usual range 0 to 0.1.
        kl_estimator: On ``d = ref - logprobs``: ``k1`` is ``-d``, ``k2`` is ``d²/2``, ``k3`` is ``exp(d) - d - 1``.
            ``k1`` needs ``kl_bias_correction``: without it, its gradient is 0 in expectation.
        kl_bias_correction: Multiply the KL term by the ratio, which makes its gradient exact off policy.
        kl_clamp: Bound ``d`` to ±20 and the term to ±10, as verl does.
        entropy_coef: Weight of the entropy bonus. Usual range 0 to 0.01.
        correction: For a sampler whose numerics differ from the trainer's: ``truncate`` caps the weight
            ``exp(old - sampled)`` (TIS), ``mask`` gives tokens outside the bounds weight 0 (IcePop, MIS); they still
            count in the denominator.
        correction_level: The weight of a ``token``, the product over a ``sequence``, or its ``geometric`` mean.
        correction_cap: Upper bound. Usual range 2 to 5.
        correction_floor: Lower bound of ``mask``. Usual value 0.5.
        reduction: How the engine averages: ``token_mean`` (DAPO), ``sequence_mean`` (GRPO as published),
            ``sequence_sum_mean``, ``sequence_sum_norm`` (Dr. GRPO), ``prompt_mean``.
        norm: Tokens that ``sequence_sum_norm`` divides by; usually the token limit.
    """

    beta: float = attrs.field(default=0.0, validator=ge(0))
    kl_estimator: Literal["k1", "k2", "k3"] = attrs.field(default="k3", validator=in_(["k1", "k2", "k3"]))
    kl_bias_correction: bool = False
    kl_clamp: bool = False
    entropy_coef: float = attrs.field(default=0.0, validator=ge(0))
    correction: Literal["none", "truncate", "mask"] = attrs.field(
        default="none", validator=in_(["none", "truncate", "mask"])
    )
    correction_level: Literal["token", "sequence", "geometric"] = attrs.field(
        default="token", validator=in_(["token", "sequence", "geometric"])
    )
    correction_cap: float = attrs.field(default=2.0, validator=gt(0))
    correction_floor: float = attrs.field(default=0.5, validator=ge(0))
    reduction: Reduction = attrs.field(default="token_mean", validator=in_(REDUCTIONS))
    norm: float | None = attrs.field(default=None, validator=optional(gt(0)))

    def __attrs_post_init__(self) -> None:
        if (self.reduction == "sequence_sum_norm") != (self.norm is not None):
            raise ValueError("norm belongs to reduction='sequence_sum_norm', and that one needs it")
        if self.correction == "mask" and self.correction_floor > self.correction_cap:
            raise ValueError(
                f"correction_floor must not be above correction_cap = {self.correction_cap:g}, "
                f"got {self.correction_floor:g}"
            )

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        """The loss's own formula."""
        raise NotImplementedError(f"{type(self).__name__} does not implement policy_terms()")

    def policy_formula(self) -> str:
        """Its formula with these options, in symbols: lp and old are log-probs, A the advantage."""
        raise NotImplementedError(f"{type(self).__name__} does not implement policy_formula()")

    def formula(self) -> str:
        """The whole loss with these options."""
        weight = {
            "none": "",
            "truncate": f" · min(w, {self.correction_cap:g})",
            "mask": f" · w [{self.correction_floor:g} ≤ w ≤ {self.correction_cap:g}]",
        }[self.correction]
        w = {
            "token": "exp(old − sampled)",
            "sequence": "exp(Σ (old − sampled))",
            "geometric": "exp(mean(old − sampled))",
        }
        ratio = " r" if self.kl_bias_correction else ""
        bounds = ", d within ±20 and the estimate within ±10" if self.kl_clamp else ""
        lines = [
            f"L = {self.policy_formula()}{weight}",
            *([f"with w = {w[self.correction_level]}"] if weight else []),
            *([f"+ {self.beta:g} ({_KL[self.kl_estimator]}){ratio}, d = ref − lp{bounds}"] if self.beta else []),
            *([f"− {self.entropy_coef:g} H, H the entropy"] if self.entropy_coef else []),
            _AVERAGES[self.reduction].format(norm=self.norm or 0),
        ]
        return "\n".join(lines)

    def ignores(self) -> tuple[str, ...]:
        unused = {
            "ref_logprobs": not self.beta,
            "entropy": not self.entropy_coef,
            "sampled_logprobs": self.correction == "none",
        }
        return tuple(name for name, is_unused in unused.items() if is_unused)

    @hookimpl
    def loss_terms(
        self,
        advantages: Ragged,
        logprobs: Ragged,
        ref_logprobs: Ragged | None,
        old_logprobs: Ragged,
        sampled_logprobs: Ragged | None,
        entropy: Ragged | None,
    ) -> LossTerms:
        """Terms per token; see the class."""
        from dovetail import LossTerms

        policy = self.policy_terms(logprobs, old_logprobs, advantages)
        terms, metrics = policy.terms, dict[str, Any](policy.metrics)
        if policy.ratio is not None:
            metrics["ratio"] = policy.ratio.detach()
        if sampled_logprobs is not None and self.correction != "none":
            ratios = sampler_ratios(old_logprobs, sampled_logprobs, self.correction_level)
            weights = bounded(ratios, self.correction, self.correction_cap, self.correction_floor)
            terms = terms * weights
            metrics.update(sampler_ratio=ratios, sampler_weight=weights)
        if ref_logprobs is not None:
            kl = kl_terms(logprobs, ref_logprobs, self.kl_estimator, clamp=self.kl_clamp)
            metrics["kl"] = kl.detach()
            corrected = kl * (logprobs - old_logprobs).exp() if self.kl_bias_correction else kl
            terms = terms + corrected * self.beta
        if entropy is not None:
            metrics["entropy"] = entropy.detach()
            terms = terms - entropy * self.entropy_coef
        return LossTerms(terms, self.reduction, self.norm, metrics)
