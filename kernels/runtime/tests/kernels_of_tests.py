"""Kernels small enough to see through: one that scores, one that reads and writes everything that a kernel can."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

import dovetail as dt
from dovetail import Ragged


def plain_share(completions: list[int], bound: int, scale: float) -> float:
    """The baseline."""
    return scale * sum(token < bound for token in completions) / len(completions) if completions else 0.0


@dt.kernel_op(path="rows/low_share.cu", baseline=plain_share)
def low_share(completions: Ragged, *, bound: int = 2, scale: float = 1.0) -> Tensor:
    """The share of tokens below a bound.

    Args:
        bound: The first token that is not low.
        scale: Of the score.
    """
    return scale * completions.map(lambda tokens: (tokens < bound).float()).mean()


def plain_weigh(tokens, values, mask, by_token, by_row):
    """The baseline."""
    weighed = [v * float(by_token[t]) * by_row if m else 0.0 for t, v, m in zip(tokens, values, mask, strict=True)]
    return float(sum(mask)), weighed


@attrs.frozen
class Weigh:
    """A part with a table, whose kernel writes a value for each token."""

    vocabulary: int = 8

    def tables(self) -> dict[str, Tensor]:
        return {"by_token": torch.linspace(-1, 1, self.vocabulary)}

    @dt.kernel_op(path="rows/weigh.cu", scratch=lambda length: 4, baseline=plain_weigh)
    def weigh(self, tokens: Ragged, values: Ragged, mask: Ragged, by_row: Tensor):
        table, chosen = self.tables()["by_token"], mask.map(Tensor.float)
        weighed = values * chosen * tokens.map(lambda ids: table[ids])
        return chosen.sum(), weighed * by_row


def rows_of(lengths, high: int = 5, seed: int = 0) -> Ragged:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, high, (sum(lengths),), generator=generator)
    return Ragged.from_lengths(values, torch.tensor(lengths, dtype=torch.int64))


def weigh_inputs(lengths, high: int = 5, seed: int = 0):
    """Arguments of ``Weigh.weigh``."""
    tokens, generator = rows_of(lengths, high, seed), torch.Generator().manual_seed(seed)
    count = len(tokens.values)
    return {
        "tokens": tokens,
        "values": tokens.with_values(torch.randn(count, generator=generator)),
        "mask": tokens.with_values(torch.rand(count, generator=generator) < 0.5),
        "by_row": torch.randn(len(lengths), generator=generator),
    }
