"""REINFORCE with a bounded importance weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt

from dovetail_grpo import PolicyLoss, PolicyTerms

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class CISPOLoss(PolicyLoss):
    """``-sg(clamp(r, floor, cap)) A logprobs`` per token, ``r = exp(logprobs - old_logprobs)``, sg without gradient.

    MiniMax 2025, MiniMax-M1 (arXiv 2506.13585), equations 4 and 5: the weight is bounded, and no token loses its
    gradient.

    Args:
        cap: Upper bound of the weight, usually 2 to 5; elsewhere 1.2 to 1.28 as ``1 + epsilon``.
        floor: Lower bound of the weight; 0 is off, as in the paper.
    """

    cap: float = attrs.field(default=5.0, validator=gt(0))
    floor: float = attrs.field(default=0.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.floor > self.cap:
            raise ValueError(f"floor must not be above cap = {self.cap:g}, got {self.floor:g}")

    def policy_formula(self) -> str:
        return f"−sg(clip(r, {self.floor:g}, {self.cap:g})) A lp, r = exp(lp − old)"

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        ratio = (logprobs - old_logprobs).exp().detach()
        weight = ratio.clamp(self.floor, self.cap)
        bounded = ratio.with_values((ratio.values != weight.values).to(ratio.values.dtype))
        return PolicyTerms(-(weight * advantages * logprobs), ratio, {"clip_fraction": bounded})
