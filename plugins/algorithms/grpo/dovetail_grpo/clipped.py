"""The clipped policy loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import gt, optional

from dovetail_grpo.policy import PolicyLoss, PolicyTerms

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class ClippedLoss(PolicyLoss):
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
    """

    clip: float = attrs.field(default=0.2, validator=gt(0))
    clip_high: float | None = attrs.field(default=None, validator=optional(gt(0)))
    dual_clip: float | None = attrs.field(default=None, validator=optional(gt(1)))
    delta: float | None = attrs.field(default=None, validator=optional(gt(0)))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.delta is not None and self.delta <= 1 + self.upper:
            raise ValueError(f"delta must be above 1 + clip_high = {1 + self.upper:g}, got {self.delta:g}")

    @property
    def upper(self) -> float:
        return self.clip if self.clip_high is None else self.clip_high

    def policy_formula(self) -> str:
        opened = "r" if self.delta is None else f"min(r, {self.delta:g})"
        gain = f"min({opened} A, clip(r, {1 - self.clip:g}, {1 + self.upper:g}) A)"
        if self.dual_clip is not None:
            gain = f"({gain}, at least {self.dual_clip:g} A where A < 0)"
        return f"−{gain}, r = {self.ratio_formula()}"

    def ratio_formula(self) -> str:
        return "exp(lp − old)"

    def log_ratio(self, logprobs: Ragged, old_logprobs: Ragged) -> Ragged:
        """Of the policy to the one before the batch, per token."""
        return logprobs - old_logprobs

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        import torch

        ratio = self.log_ratio(logprobs, old_logprobs).exp()
        open_ratio = ratio.clamp(max=self.delta) if self.delta is not None else ratio
        clipped = ratio.clamp(1 - self.clip, 1 + self.upper)
        gain = torch.minimum((open_ratio * advantages).values, (clipped * advantages).values)
        if self.dual_clip is not None:
            floor = self.dual_clip * advantages.values
            gain = torch.where(advantages.values < 0, torch.maximum(gain, floor), gain)
        return PolicyTerms(
            ratio.with_values(-gain), ratio, clip_metrics(ratio, advantages, 1 - self.clip, 1 + self.upper)
        )


def clip_metrics(ratio: Ragged, advantages: Ragged, low: float, high: float) -> dict[str, Ragged]:
    """Which tokens a clip of the ratio stops: below with a negative advantage, above with a positive one."""
    below = ((ratio.values < low) & (advantages.values < 0)).to(ratio.values.dtype)
    above = ((ratio.values > high) & (advantages.values > 0)).to(ratio.values.dtype)
    return {
        "clip_fraction": ratio.with_values(below + above),
        "clip_fraction_low": ratio.with_values(below),
        "clip_fraction_high": ratio.with_values(above),
    }
