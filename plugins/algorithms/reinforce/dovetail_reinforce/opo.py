"""The baseline of least variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


@attrs.frozen
class OPOAdvantages:
    """``A_i = R_i - Σ_j l_j R_j / Σ_j l_j`` over the group, l the sampled tokens of a completion.

    Hao et al. 2025, On-Policy RL with Optimal Reward Baseline (arXiv 2505.23585), equation 7: the baseline of least
    variance, if the squared norm of a sequence's gradient grows with its length. A group of one gets 0.
    """

    def formula(self) -> str:
        """In symbols."""
        return "A = R − Σ l R / Σ l over the group, l the length of a completion"

    @hookimpl
    def estimate(self, rewards: Tensor, groups: Tensor, sampled: Ragged) -> Tensor:
        """``[B]`` advantages from ``[B]`` rewards, group numbers and the sampled tokens."""
        import torch

        _, index = torch.unique(groups, return_inverse=True)
        lengths = sampled.lengths.to(rewards)
        sums = torch.stack([lengths * rewards, lengths], 1)
        weighted, total = rewards.new_zeros(len(rewards), 2).index_add(0, index, sums)[index].unbind(1)
        return rewards - weighted / total.clamp(min=1)
