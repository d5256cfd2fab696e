"""Credit by what comes after a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import and_, ge, in_, le

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


@attrs.frozen
class ReturnAdvantages:
    """``A_t = Σ_{k≥t} γ^(k-t) r_k``, whitened over all tokens of the batch.

    Hu 2025, REINFORCE++ (arXiv 2501.03262), section 3: ``r_k = -kl_coef (logprobs_k - ref_logprobs_k)``, and the last
    token gets the reward, less the baseline, besides. Whitening takes the sample variance:
    ``(A - mean) / sqrt(var + 1e-8)``.

    Args:
        gamma: Discount per sampled token. Usual value 1.
        kl_coef: Weight of the KL penalty in the reward (k1, at each token); 0 needs no reference. Usual range 0 to 0.1.
        baseline: What is subtracted from the reward: nothing, the mean of the ``batch``, or of the ``group``.
        whiten: Give the advantages mean 0 and variance 1 over the tokens of the batch.
    """

    gamma: float = attrs.field(default=1.0, validator=and_(ge(0), le(1)))
    kl_coef: float = attrs.field(default=0.0, validator=ge(0))
    baseline: Literal["none", "batch", "group"] = attrs.field(default="none", validator=in_(["none", "batch", "group"]))
    whiten: bool = True

    def ignores(self) -> tuple[str, ...]:
        unused = () if self.kl_coef else ("logprobs", "ref_logprobs")
        return unused if self.baseline == "group" else (*unused, "groups")

    def formula(self) -> str:
        """In symbols."""
        reward = {"none": "R", "batch": "R − mean of the batch", "group": "R − mean of the group"}[self.baseline]
        penalty = f", less {self.kl_coef:g} (lp − ref) at each token" if self.kl_coef else ""
        white = ", then (A − mean) / std over all tokens" if self.whiten else ""
        return f"A = {reward} at the last token{penalty}, summed from each token on with γ = {self.gamma:g}{white}"

    @hookimpl
    def estimate(
        self,
        rewards: Tensor,
        groups: Tensor | None,
        logprobs: Ragged | None,
        ref_logprobs: Ragged | None,
        sampled: Ragged,
    ) -> Ragged:
        """Advantages over the sampled tokens.

        Args:
            rewards: ``[B]``.
            groups: ``[B]``, for the group's mean.
            logprobs: Of the policy, for the penalty.
            ref_logprobs: Of the reference, for the penalty.
            sampled: The tokens themselves, for their places.
        """
        import torch

        from dovetail_advantages import discounted_sums, whitened

        steps = sampled.map(lambda tokens: rewards.new_zeros(len(tokens)))
        if logprobs is not None and ref_logprobs is not None and self.kl_coef:
            steps = (ref_logprobs - logprobs) * self.kl_coef
        last = sampled.positions == sampled.lengths[sampled.row_ids] - 1
        centred = rewards - self._baseline(rewards, groups)
        steps = steps.with_values(steps.values + last * centred[sampled.row_ids])
        returns = discounted_sums(steps, torch.full_like(rewards, self.gamma))
        return whitened(returns) if self.whiten else returns

    def _baseline(self, rewards: Tensor, groups: Tensor | None) -> Tensor | float:
        import torch

        if self.baseline == "none" or not len(rewards):
            return 0.0
        if groups is None or self.baseline == "batch":
            return rewards.mean()
        _, index, counts = torch.unique(groups, return_inverse=True, return_counts=True)
        return (rewards.new_zeros(len(counts)).index_add(0, index, rewards) / counts)[index]
