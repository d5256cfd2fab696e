"""Simple preference optimisation: the reward is the mean log-probability of an answer's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt, lt

from dovetail import hookimpl
from dovetail_preferences.dpo import smoothed
from dovetail_preferences.pairs import pairs_of, preference_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged


@attrs.frozen
class SimPOLoss:
    """``-log σ(β (mean log π(chosen) - mean log π(rejected)) - γ)`` per pair; no reference is needed.

    Meng et al. 2024 (arXiv 2405.14734), equation 6.

    Args:
        beta: Inverse temperature of the mean log-probabilities. Usual range 2 to 2.5, up to 10.
        gamma: The margin that the chosen answer is to win by. Usual range 0.3 to 1.6.
        label_smoothing: Share of labels that are assumed flipped. Usual range 0 to 0.3.
    """

    beta: float = attrs.field(default=2.0, validator=gt(0))
    gamma: float = attrs.field(default=1.0, validator=ge(0))
    label_smoothing: float = attrs.field(default=0.0, validator=[ge(0), lt(0.5)])

    @hookimpl
    def loss_terms(self, logprobs: Ragged, rewards: Ragged, groups: Tensor) -> LossTerms:
        """Terms ``[B]``: that of a pair at each of its rows."""
        from dovetail import LossTerms

        pairs = pairs_of(logprobs, rewards, groups)
        chosen, rejected = pairs.split(self.beta * logprobs.mean())
        losses = smoothed(chosen - rejected - self.gamma, self.label_smoothing)
        return LossTerms(pairs.spread(losses), "batch_mean", metrics=preference_metrics(pairs, chosen, rejected))
