"""A policy gradient with a squared step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from dovetail_grpo import PolicyLoss, PolicyTerms, Reduction

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class MirrorDescentLoss(PolicyLoss):
    """``-A Σ_t logprobs + (τ / 2) (Σ_t (logprobs - old_logprobs))²`` for a sequence.

    Kimi team 2025, Kimi k1.5 (arXiv 2501.12599), section 2.3.2: the gradient of one step of online mirror descent,
    whose relative entropy is to the policy that sampled. Each token carries its share; sum them up by
    ``sequence_sum_mean``.

    Args:
        tau: Weight of the squared log-ratio; larger makes smaller steps. It acts from the second optimizer step on a
            batch on. Usual range 0.001 to 1.
        reduction: As of every policy loss; the paper's is ``sequence_sum_mean``.
    """

    tau: float = attrs.field(default=0.1, validator=ge(0))
    reduction: Reduction = "sequence_sum_mean"

    def policy_formula(self) -> str:
        return f"−A lp + {self.tau / 2:g} (Σ d)² / T, d = lp − old, T tokens of the sequence"

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        gap = logprobs - old_logprobs
        share = gap.sum().square() / gap.lengths.clamp(min=1)
        return PolicyTerms(gap.spread(share) * (self.tau / 2) - advantages * logprobs, gap.exp(), {})
