"""Group relative policy optimisation, and what other policy losses are made of."""

from dovetail_grpo.clipped import ClippedLoss, clip_metrics
from dovetail_grpo.policy import PolicyLoss, PolicyTerms, Reduction

__all__ = ["ClippedLoss", "PolicyLoss", "PolicyTerms", "Reduction", "clip_metrics"]
