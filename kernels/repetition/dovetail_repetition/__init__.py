"""Penalise completions that repeat their n-grams, as a row kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, le

from dovetail import hookimpl, kernel_op
from dovetail_kernels import distinct_scratch

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


def plain(completions: list[int], n: int, max_penalty: float) -> float:
    """The score of one row in plain Python."""
    total = len(completions) - n + 1
    if total <= 0:
        return 0.0
    return max_penalty * (1 - len({tuple(completions[i : i + n]) for i in range(total)}) / total)


@attrs.frozen
class Repetition:
    """Score in [max_penalty, 0]: ``max_penalty * (1 - distinct n-grams / n-grams)``; 0 for rows shorter than n.

    Args:
        n: Tokens of an n-gram. Usual: 3 to 20, as the smallest phrase that must not come twice.
        max_penalty: Score of a row that repeats one n-gram for ever. Usual: -1 to -0.1.
    """

    n: int = attrs.field(default=3, validator=ge(1))
    max_penalty: float = attrs.field(default=-1.0, validator=le(0))

    @hookimpl
    @kernel_op(path="repetition.cu", scratch=distinct_scratch, baseline=plain)
    def score(self, completions: Ragged) -> Tensor:
        """``[B]``; see the class."""
        import torch

        values = completions.values
        totals = (completions.lengths - self.n + 1).clamp(min=0)
        # Every n-gram as a line of its row's number and its tokens; each run of equal lines counts once.
        starts = (completions.positions < totals[completions.row_ids]).nonzero().squeeze(1)
        grams = values[starts[:, None] + torch.arange(self.n, device=values.device)]
        lines = torch.cat([completions.row_ids[starts][:, None], grams.long()], dim=1)
        distinct = torch.bincount(torch.unique(lines, dim=0)[:, 0], minlength=len(completions))
        return self.max_penalty * (1 - distinct / totals.clamp(min=1)) * (totals > 0)
