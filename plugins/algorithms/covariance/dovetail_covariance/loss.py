"""The policy gradient off policy, without a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dovetail_grpo import PolicyLoss, PolicyTerms

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class ImportanceSamplingLoss(PolicyLoss):
    """``-r A`` per token, ``r = exp(logprobs - old_logprobs)``: nothing bounds a step but what is added to it.

    Its options are those of every policy loss.
    """

    def policy_formula(self) -> str:
        return "−r A, r = exp(lp − old)"

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        ratio = (logprobs - old_logprobs).exp()
        return PolicyTerms(-(ratio * advantages), ratio, {})
