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
    """What the denominators of one optimizer step are made of, over all of its micro-batches.

    Args:
        lengths: ``[B]`` int64, tokens of each row that carry loss; rows without any count nowhere.
        groups: ``[B]`` int64, the prompt of each row.
    """

    lengths: Tensor
    groups: Tensor

    @property
    def sequences(self) -> int:
        return int((self.lengths > 0).sum())

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    def row_weights(self, reduction: str, norm: float | None) -> Tensor:
        """``[B]`` float64, the weight of every token of a row; they are all that a reduction is.

        Raises:
            DovetailError: The tag is unknown.
        """
        lengths = self.lengths.double()
        filled = (lengths > 0).double()
        sequences = max(self.sequences, 1)
        if reduction == "token_mean":
            return filled / max(self.tokens, 1)
        if reduction in ("sequence_sum_mean", "batch_mean"):
            return filled / sequences
        if reduction == "sequence_mean":
            return filled / lengths.clamp(min=1) / sequences
        if reduction == "sequence_sum_norm":
            if not norm or norm <= 0:
                raise DovetailError(f"the reduction sequence_sum_norm needs a norm above 0, got {norm!r}")
            return filled / (sequences * norm)
        if reduction == "prompt_mean":
            prompts, row_prompt = torch.unique(self.groups, return_inverse=True)
            tokens = torch.zeros(len(prompts), dtype=torch.float64, device=lengths.device)
            tokens.index_add_(0, row_prompt, lengths)
            counted = max(int((tokens > 0).sum()), 1)
            return filled / tokens.clamp(min=1)[row_prompt] / counted
        raise DovetailError(f"no reduction is called {reduction!r}")


def reduce_terms(terms: LossTerms, counts: StepCounts, rows: Tensor) -> Tensor:
    """The share of a micro-batch in the loss of its optimizer step; shares add up to the loss.

    Args:
        terms: Of the rows ``rows`` of the step.
        counts: Of the whole step.
        rows: ``[b]`` int64, which rows of the step these are.
    """
    return weighted_sum(terms.terms, counts.row_weights(terms.reduction, terms.norm)[rows])


def mean_share(metric: Ragged | Tensor, counts: StepCounts, rows: Tensor) -> Tensor:
    """The share of a micro-batch in the mean of a metric over all tokens (Ragged) or sequences of the step."""
    reduction = "token_mean" if isinstance(metric, Ragged) else "batch_mean"
    return weighted_sum(metric, counts.row_weights(reduction, None)[rows])


def weighted_sum(terms: Ragged | Tensor, weights: Tensor) -> Tensor:
    """Sum of terms, each times its row's weight. Empty rows weigh 0 and are left out, whatever they hold."""
    values, per_value = (terms.values, weights[terms.row_ids]) if isinstance(terms, Ragged) else (terms, weights)
    if not isinstance(terms, Ragged):
        counted = per_value > 0
        values, per_value = values[counted], per_value[counted]
    return (values * per_value.to(values.dtype)).sum()
