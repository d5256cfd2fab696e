"""The engine owns every denominator: a loss is a weighted sum whose weights come from the whole optimizer step."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from dovetail.errors import DovetailError
from dovetail.ragged import Ragged
from dovetail.rollouts import LossTerms


@attrs.frozen(eq=False)
class StepCounts:
    """What the denominators of one optimizer step are made of, over all of its micro-batches."""

    lengths: Tensor  # [B] int64, tokens of each row that carry loss; rows without any count nowhere
    groups: Tensor  # [B] int64, the prompt of each row

    def row_weights(self, reduction: str, norm: float | None) -> Tensor:
        """``[B]`` float64, the weight of every token of a row; they are all that a reduction is."""
        lengths = self.lengths.double()
        filled = (lengths > 0).double()
        sequences = max(int(filled.sum()), 1)
        if reduction == "token_mean":
            return filled / max(int(self.lengths.sum()), 1)
        if reduction in ("sequence_sum_mean", "batch_mean"):
            return filled / sequences
        if reduction == "sequence_mean":
            return filled / lengths.clamp(min=1) / sequences
        if reduction == "sequence_sum_norm":
            if not norm or norm <= 0:
                raise DovetailError(f"the reduction sequence_sum_norm needs a norm above 0, got {norm!r}")
            return filled / (sequences * norm)
        if reduction == "prompt_mean":
            prompts = torch.unique(self.groups, return_inverse=True)[1]
            tokens = torch.bincount(prompts, weights=lengths)
            return filled / tokens.clamp(min=1)[prompts] / max(int((tokens > 0).sum()), 1)
        raise DovetailError(f"no reduction is called {reduction!r}")


def reduce_terms(terms: LossTerms, counts: StepCounts, rows: Tensor) -> Tensor:
    """The share of the rows ``rows`` ``[b]`` of a step in its loss; the shares of all micro-batches add up to it."""
    values = terms.terms.values if isinstance(terms.terms, Ragged) else terms.terms
    weights = counts.row_weights(terms.reduction, terms.norm)[rows].to(values.device)
    if isinstance(terms.terms, Ragged):
        weights = weights[terms.terms.row_ids]
    else:  # a row that does not count is left out, whatever it holds
        values, weights = values[weights > 0], weights[weights > 0]
    return (values * weights.to(values.dtype)).sum()


def known_values(metric: Ragged | Tensor, counts: StepCounts, rows: Tensor) -> Tensor:
    """``[n]`` float64, what a micro-batch brings to the mean of a metric over tokens (Ragged) or counted sequences."""
    values = metric.values if isinstance(metric, Ragged) else metric[counts.lengths[rows].to(metric.device) > 0]
    return values[~values.isnan()].double()
