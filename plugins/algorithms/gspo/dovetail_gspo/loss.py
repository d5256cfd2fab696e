"""The clipped loss on the ratio of whole sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import gt, in_, optional

from dovetail_grpo import ClippedLoss

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class GSPOLoss(ClippedLoss):
    """``-min(s A, clamp(s, 1 - clip, 1 + clip_high) A)``, ``s = exp(mean_t(logprobs - old_logprobs))``.

    Zheng et al. 2025, GSPO (arXiv 2507.18071), equations 5 to 7; at level ``token`` the ratio of token t is
    ``sg(s) exp(logprobs_t - sg(logprobs_t))``, equations 13 and 14: the same value, and each token pushes by its own
    advantage. Average by ``sequence_mean``.

    Args:
        level: ``sequence``: the gradient goes through the mean; ``token``: GSPO-token, for advantages per token.
        clip: How far the ratio may fall below 1 and still push. Usual range 1e-4 to 1e-3.
        clip_high: How far it may rise above 1; null takes ``clip``.
    """

    level: Literal["sequence", "token"] = attrs.field(default="sequence", validator=in_(["sequence", "token"]))
    clip: float = attrs.field(default=3e-4, validator=gt(0))
    clip_high: float | None = attrs.field(default=4e-4, validator=optional(gt(0)))

    traits = ("sequence_ratio",)

    def ratio_formula(self) -> str:
        mean = "exp(mean over the sequence of (lp − old))"
        return mean if self.level == "sequence" else f"{mean}, with the gradient of exp(lp) at each token"

    def log_ratio(self, logprobs: Ragged, old_logprobs: Ragged) -> Ragged:
        gap = logprobs - old_logprobs
        sequence = gap.spread(gap.mean())
        return sequence if self.level == "sequence" else sequence.detach() + logprobs - logprobs.detach()
