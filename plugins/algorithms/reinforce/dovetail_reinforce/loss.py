"""The policy gradient itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dovetail_grpo import PolicyLoss, PolicyTerms

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class ReinforceLoss(PolicyLoss):
    """``-A logprobs`` per token.

    Williams 1992, "Simple statistical gradient-following algorithms", equation 4. There is no ratio: exact for the one
    optimizer step after the sampling, biased from the second one on.
    """

    def policy_formula(self) -> str:
        return "−A lp"

    def ignores(self) -> tuple[str, ...]:
        needs_old = self.kl_bias_correction or self.correction != "none"
        return super().ignores() if needs_old else (*super().ignores(), "old_logprobs")

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        return PolicyTerms(-(advantages * logprobs), None, {})
