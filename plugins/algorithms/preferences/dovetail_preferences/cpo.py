"""Contrastive preference optimisation: DPO with a uniform reference, and a pull towards the chosen answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import ge, gt, in_, lt

from dovetail import hookimpl
from dovetail_preferences.dpo import smoothed
from dovetail_preferences.pairs import pairs_of, preference_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged


@attrs.frozen
class CPOLoss:
    """``-log σ(β (Σ log π(chosen) - Σ log π(rejected))) + nll_coef · NLL(chosen)`` per pair; no reference is needed.

    Xu et al. 2024 (arXiv 2401.08417), equations 3 and 5; the likelihood is the mean over the chosen answer's tokens.

    Args:
        loss_type: ``sigmoid``, or ``hinge``: ``max(0, 1 - β·difference)``.
        beta: Inverse temperature. Usual range 0.1 to 0.5.
        nll_coef: Weight of the chosen answer's negative log-likelihood. Usual range 0 to 1.
        label_smoothing: Share of labels that are assumed flipped, of ``sigmoid``. Usual range 0 to 0.3.
    """

    loss_type: Literal["sigmoid", "hinge"] = attrs.field(default="sigmoid", validator=in_(["sigmoid", "hinge"]))
    beta: float = attrs.field(default=0.1, validator=gt(0))
    nll_coef: float = attrs.field(default=1.0, validator=ge(0))
    label_smoothing: float = attrs.field(default=0.0, validator=[ge(0), lt(0.5)])

    @hookimpl
    def loss_terms(self, logprobs: Ragged, rewards: Ragged, groups: Tensor) -> LossTerms:
        """Terms ``[B]``: that of a pair at each of its rows."""
        from dovetail import LossTerms

        pairs = pairs_of(logprobs, rewards, groups)
        chosen, rejected = pairs.split(self.beta * logprobs.sum())
        nll = -pairs.split(logprobs.mean())[0]
        logits = chosen - rejected
        losses = (1 - logits).relu() if self.loss_type == "hinge" else smoothed(logits, self.label_smoothing)
        metrics = {**preference_metrics(pairs, chosen, rejected), "nll": pairs.spread(nll.detach())}
        return LossTerms(pairs.spread(losses + self.nll_coef * nll), "batch_mean", metrics=metrics)
