"""The ratio under a soft gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import gt

from dovetail_grpo import PolicyLoss, PolicyTerms

if TYPE_CHECKING:
    from dovetail import Ragged


@attrs.frozen
class SAPOLoss(PolicyLoss):
    """``-(4 / τ) σ(τ (r - 1)) A`` per token, ``r = exp(logprobs - old_logprobs)``, τ by the sign of A.

    Gao et al. 2025, Soft Adaptive Policy Optimization (arXiv 2511.20347), equations 5 and 6: at r = 1 the gradient is
    REINFORCE's, and it fades away from it instead of being cut.

    Args:
        tau_positive: Steepness for positive advantages. Usual value 1.
        tau_negative: Steepness for the others; larger fades sooner. Usual value 1.05.
    """

    tau_positive: float = attrs.field(default=1.0, validator=gt(0))
    tau_negative: float = attrs.field(default=1.05, validator=gt(0))

    def policy_formula(self) -> str:
        return (
            f"−(4 / τ) σ(τ (r − 1)) A, r = exp(lp − old), τ = {self.tau_positive:g} where A > 0, else "
            f"{self.tau_negative:g}"
        )

    def policy_terms(self, logprobs: Ragged, old_logprobs: Ragged, advantages: Ragged) -> PolicyTerms:
        import torch

        ratio = (logprobs - old_logprobs).exp()
        tau = torch.where(advantages.values > 0, self.tau_positive, self.tau_negative).to(ratio.values.dtype)
        gate = torch.sigmoid(tau * (ratio.values - 1)) * 4 / tau
        return PolicyTerms(-(ratio.with_values(gate) * advantages), ratio, {})
