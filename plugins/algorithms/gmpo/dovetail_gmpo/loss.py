"""The geometric mean of clipped ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import gt

from dovetail_grpo import PolicyLoss, PolicyTerms, Reduction

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class GMPOLoss(PolicyLoss):
    """``-A exp(mean_t(c_t))``, ``c_t = s min(s d_t, clamp(s d_t, -clip, clip))``, ``d = logprobs - old_logprobs``.

    Zhao et al. 2025, Geometric-Mean Policy Optimization (arXiv 2507.20673), equation 4: s is the sign of A, and the
    clip is on the log-ratio of each token. One outlier token moves the geometric mean less than the arithmetic one.
    A sequence has one advantage, the mean over its tokens. Average by ``sequence_mean``.

    Args:
        clip: How far a token's log-ratio may go from 0 and still push. Usual value 0.4.
        reduction: As of every policy loss; the paper's is ``sequence_mean``.
    """

    clip: float = attrs.field(default=0.4, validator=gt(0))
    reduction: Reduction = "sequence_mean"

    traits = ("sequence_ratio",)

    def policy_formula(self) -> str:
        return (
            f"−A exp(mean over the sequence of c), c = s min(s d, clip(s d, ±{self.clip:g})), d = lp − old, s = sign(A)"
        )

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        import torch

        gap, credit = logprobs - old_logprobs, advantages.mean()
        sign = gap.spread(credit.sign()).values
        toward = sign * gap.values
        clipped = gap.with_values(sign * torch.minimum(toward, toward.clamp(-self.clip, self.clip)))
        stopped = gap.with_values((toward > self.clip).to(toward.dtype))
        ratio = gap.spread(clipped.mean().exp())
        return PolicyTerms(-(ratio * gap.spread(credit)), ratio, {"clip_fraction": stopped.detach()})
