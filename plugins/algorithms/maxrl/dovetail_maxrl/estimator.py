"""Credit divided by the rate of success."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class MaxRLAdvantages:
    """``A_i = (R_i - mean(R_group)) / (mean(R_group) + eps)``; a group without any reward gets 0.

    Tajwar et al. 2026, Maximum Likelihood Reinforcement Learning (arXiv 2602.02710), with the paper's variance
    reduction: the sum over a group averages the scores of its successes alone, which is the gradient of log p to the
    order that the group allows, where p is the rate of success. Rewards must not be negative.

    Args:
        eps: Added to the mean.
    """

    eps: float = attrs.field(default=1e-6, validator=ge(0))

    def formula(self) -> str:
        """In symbols."""
        return f"A = (R − mean of the group) / (mean of the group + {self.eps:g}), 0 where the mean is 0"

    @hookimpl
    def estimate(self, rewards: Tensor, groups: Tensor) -> Tensor:
        """``[B]`` advantages from ``[B]`` rewards and group numbers; a ValueError refuses negative rewards."""
        import torch

        if bool((rewards < 0).any()):
            raise ValueError(f"rewards must not be negative, and the least is {rewards.min().item():g}")
        _, index = torch.unique(groups, return_inverse=True)
        totals, counts = (
            rewards.new_zeros(len(rewards)).index_add(0, index, values)
            for values in (rewards, torch.ones_like(rewards))
        )
        mean = (totals / counts.clamp(min=1))[index]
        return torch.where(mean > 0, (rewards - mean) / (mean + self.eps), torch.zeros_like(mean))
