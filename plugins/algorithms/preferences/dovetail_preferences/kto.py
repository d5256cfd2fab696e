"""Kahneman-Tversky optimisation: each answer is good or bad by itself; no pairs are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import gt, in_

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged


@attrs.frozen
class KTOLoss:
    """``λ_D (1 - σ(β (C - z)))`` for a desirable answer, ``λ_U (1 - σ(β (z - C)))`` for an undesirable one.

    ``C = Σ (log π - log π_ref)`` over the answer's tokens. z, the port ``baselines``, is the KL divergence from the
    reference at the start of the step, estimated on prompts with other prompts' answers and not below 0. Ethayarajh et
    al. 2024 (arXiv 2402.01306), equations 7 and 8. ``apo_zero_unpaired`` takes z = 0: D'Oosterlinck et al. 2024 (arXiv
    2408.06266), equation 7. An answer is desirable if its reward is above 0.

    Args:
        loss_type: ``kto`` or ``apo_zero_unpaired``.
        beta: How strongly the reference is held on to. Usual range 0.01 to 0.5.
        desirable_weight: λ_D. Keep λ_D · desirable rows within 1 to 4/3 of λ_U · undesirable rows.
        undesirable_weight: λ_U.
    """

    loss_type: Literal["kto", "apo_zero_unpaired"] = attrs.field(
        default="kto", validator=in_(["kto", "apo_zero_unpaired"])
    )
    beta: float = attrs.field(default=0.1, validator=gt(0))
    desirable_weight: float = attrs.field(default=1.0, validator=gt(0))
    undesirable_weight: float = attrs.field(default=1.0, validator=gt(0))

    def ignores(self) -> tuple[str, ...]:
        return () if self.loss_type == "kto" else ("baselines",)

    @hookimpl
    def loss_terms(
        self, logprobs: Ragged, ref_logprobs: Ragged, rewards: Ragged, baselines: Tensor | None
    ) -> LossTerms:
        """Terms ``[B]``."""
        import torch

        from dovetail import LossTerms

        ratio = (logprobs - ref_logprobs).sum()
        baseline = torch.zeros_like(ratio) if baselines is None else baselines.to(ratio.dtype)
        desirable = rewards.max() > 0
        gain = torch.where(desirable, ratio - baseline, baseline - ratio)
        weights = ratio.new_tensor([self.undesirable_weight, self.desirable_weight])
        reward = self.beta * ratio.detach()
        metrics = {"signed_reward": torch.where(desirable, reward, -reward), "baseline": baseline}
        return LossTerms(weights[desirable.long()] * (1 - (self.beta * gain).sigmoid()), "batch_mean", metrics=metrics)
