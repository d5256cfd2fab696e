"""The clipped policy loss, with the corrections and penalties that the literature adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs.validators import ge, gt, in_, optional

from dovetail import hookimpl
from dovetail_grpo.terms import bounded, kl_terms, sampler_ratios

if TYPE_CHECKING:
    from dovetail import LossTerms, Ragged

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum_mean", "sequence_sum_norm", "prompt_mean")
_positive = optional(gt(0))


@attrs.frozen
class ClippedLoss:
    """``-min(r A, clamp(r, 1 - clip, 1 + clip_high) A)`` per token, ``r = exp(logprobs - old_logprobs)``.

    PPO, Schulman et al. 2017 (arXiv 1707.06347), equation 7; asymmetric clipping: DAPO, Yu et al. 2025 (arXiv
    2503.14476), equation 10; dual clip: Ye et al. 2020 (arXiv 1912.09729), equation 5; KL estimators: Schulman 2020,
    "Approximating KL divergence". Shapes: every argument is a Ragged over the sampled tokens.

    Args:
        clip: How far the ratio may fall below 1 and still push. Usual range 0.1 to 0.3.
        clip_high: How far it may rise above 1; null takes ``clip``. DAPO: 0.28.
        dual_clip: For negative advantages the term is at most ``dual_clip * |A|``; usual value 3; null is off.
        delta: Upper bound of the ratio in the unclipped branch (TRL's two-sided GRPO), above ``1 + clip_high``; null
            is off.
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

    clip: float = attrs.field(default=0.2, validator=gt(0))
    clip_high: float | None = attrs.field(default=None, validator=_positive)
    dual_clip: float | None = attrs.field(default=None, validator=optional(gt(1)))
    delta: float | None = attrs.field(default=None, validator=_positive)
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
    reduction: Literal["token_mean", "sequence_mean", "sequence_sum_mean", "sequence_sum_norm", "prompt_mean"] = (
        attrs.field(default="token_mean", validator=in_(REDUCTIONS))
    )
    norm: float | None = attrs.field(default=None, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if (self.reduction == "sequence_sum_norm") != (self.norm is not None):
            raise ValueError("norm belongs to reduction='sequence_sum_norm', and that one needs it")
        if self.correction == "mask" and self.correction_floor > self.correction_cap:
            raise ValueError(
                f"correction_floor must not be above correction_cap = {self.correction_cap:g}, "
                f"got {self.correction_floor:g}"
            )
        if self.delta is not None and self.delta <= 1 + self.upper:
            raise ValueError(f"delta must be above 1 + clip_high = {1 + self.upper:g}, got {self.delta:g}")

    @property
    def upper(self) -> float:
        return self.clip if self.clip_high is None else self.clip_high

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

        ratio = (logprobs - old_logprobs).exp()
        terms = self._policy_terms(ratio, advantages)
        metrics: dict[str, Any] = {"ratio": ratio.detach(), **self._clip_metrics(ratio, advantages)}
        if sampled_logprobs is not None and self.correction != "none":
            ratios = sampler_ratios(old_logprobs, sampled_logprobs, self.correction_level)
            weights = bounded(ratios, self.correction, self.correction_cap, self.correction_floor)
            terms = terms * weights
            metrics.update(sampler_ratio=ratios, sampler_weight=weights)
        if ref_logprobs is not None:
            kl = kl_terms(logprobs, ref_logprobs, self.kl_estimator, clamp=self.kl_clamp)
            metrics["kl"] = kl.detach()
            terms = terms + (kl * ratio if self.kl_bias_correction else kl) * self.beta
        if entropy is not None:
            metrics["entropy"] = entropy.detach()
            terms = terms - entropy * self.entropy_coef
        return LossTerms(terms, self.reduction, self.norm, metrics)

    def _policy_terms(self, ratio: Ragged, advantages: Ragged) -> Ragged:
        import torch

        open_ratio = ratio.clamp(max=self.delta) if self.delta is not None else ratio
        clipped = ratio.clamp(1 - self.clip, 1 + self.upper)
        gain = torch.minimum((open_ratio * advantages).values, (clipped * advantages).values)
        if self.dual_clip is not None:
            floor = self.dual_clip * advantages.values
            gain = torch.where(advantages.values < 0, torch.maximum(gain, floor), gain)
        return ratio.with_values(-gain)

    def _clip_metrics(self, ratio: Ragged, advantages: Ragged) -> dict[str, Ragged]:
        low = ((ratio.values < 1 - self.clip) & (advantages.values < 0)).to(ratio.values.dtype)
        high = ((ratio.values > 1 + self.upper) & (advantages.values > 0)).to(ratio.values.dtype)
        return {
            "clip_fraction": ratio.with_values(low + high),
            "clip_fraction_low": ratio.with_values(low),
            "clip_fraction_high": ratio.with_values(high),
        }
