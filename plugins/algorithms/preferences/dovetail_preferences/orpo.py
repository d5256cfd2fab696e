"""Odds ratio preference optimisation: supervised fine-tuning that also lowers the odds of the rejected answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from dovetail import hookimpl
from dovetail_preferences.dpo import log_sigmoid
from dovetail_preferences.pairs import pairs_of, preference_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged


@attrs.frozen
class ORPOLoss:
    """``NLL(chosen) - λ log σ(log odds(chosen) - log odds(rejected))`` per pair, ``odds = P / (1 - P)``.

    P is the geometric mean of an answer's token probabilities, and NLL is ``-log P``. Hong et al. 2024 (arXiv
    2403.07691), equations 2 to 7. No reference is needed, and no supervised fine-tuning before.

    Args:
        coef: λ, the weight of the odds ratio. Usual range 0.1 to 1.
    """

    coef: float = attrs.field(default=0.1, validator=ge(0))

    @hookimpl
    def loss_terms(self, logprobs: Ragged, rewards: Ragged, groups: Tensor) -> LossTerms:
        """Terms ``[B]``: that of a pair at each of its rows."""
        from dovetail import LossTerms

        pairs = pairs_of(logprobs, rewards, groups)
        chosen, rejected = pairs.split(logprobs.mean())
        log_odds = _log_odds(chosen) - _log_odds(rejected)
        losses = -chosen - self.coef * log_sigmoid(log_odds)
        metrics = {
            **preference_metrics(pairs, chosen, rejected),
            "nll": pairs.spread(-chosen.detach()),
            "log_odds_ratio": pairs.spread(log_odds.detach()),
        }
        return LossTerms(pairs.spread(losses), "batch_mean", metrics=metrics)


def _log_odds(logprob: Tensor) -> Tensor:
    """``log p - log(1 - p)``. A probability that rounds to 1 is taken for the nearest one below it."""
    import torch

    largest = -(torch.finfo(logprob.dtype).tiny ** 0.5)
    logprob = logprob.clamp(max=largest)
    return logprob - torch.log(-torch.expm1(logprob))
