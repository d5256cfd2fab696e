"""Reward completions whose n-grams differ, as a row kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from dovetail import hookimpl, kernel_op
from dovetail_kernels import distinct_scratch

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


def plain(completions: list[int], max_n: int) -> float:
    """The score of one row in plain Python."""
    shares = []
    for n in range(1, min(max_n, len(completions)) + 1):
        grams = [tuple(completions[i : i + n]) for i in range(len(completions) - n + 1)]
        shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else 0.0


@attrs.frozen
class Diversity:
    """Score in [0, 1]: the mean over n = 1 … max_n of distinct n-grams by n-grams; 0 for an empty row.

    Distinct-n: Li et al. 2016, "A diversity-promoting objective function for neural conversation models" (arXiv
    1510.03055), section 5.3. An n longer than the row is left out. Long rows repeat words of need, so the score falls
    with the length, most of all for n = 1.

    Args:
        max_n: The longest n-grams. Usual: 2 or 3.
    """

    max_n: int = attrs.field(default=3, validator=ge(1))

    @hookimpl
    @kernel_op(path="diversity.cu", scratch=distinct_scratch, baseline=plain)
    def score(self, completions: Ragged) -> Tensor:
        """``[B]``; see the class."""
        import torch

        total = completions.lengths.new_zeros(len(completions), dtype=torch.float32)
        for n in range(1, self.max_n + 1):
            total += _distinct(completions, n)
        return total / completions.lengths.clamp(min=1, max=self.max_n)


def _distinct(rows: Ragged, n: int) -> Tensor:
    """``[B]`` share of the n-grams that differ; 0 for rows that are shorter."""
    import torch

    totals = (rows.lengths - n + 1).clamp(min=0)
    starts = (rows.positions < totals[rows.row_ids]).nonzero().squeeze(1)
    grams = rows.values[starts[:, None] + torch.arange(n, device=rows.values.device)]
    lines = torch.cat([rows.row_ids[starts][:, None], grams.long()], dim=1)
    distinct = torch.bincount(torch.unique(lines, dim=0)[:, 0], minlength=len(rows))
    return distinct / totals.clamp(min=1)
