"""Which rows of a batch are a pair: the best and the worst of a group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


@attrs.frozen(eq=False)
class Pairs:
    """The rows that a group's highest and lowest reward point at. P pairs out of B rows.

    A group of one, or whose rewards are all equal, prefers nothing and makes no pair.
    """

    chosen: Tensor  #: ``[P]`` int64, rows
    rejected: Tensor  #: ``[P]`` int64, rows
    _pair: Tensor  #: ``[B]`` int64, the pair of each row; P where there is none

    @classmethod
    def of(cls, rewards: Tensor, groups: Tensor, lengths: Tensor) -> Pairs:
        """Pair rows by ``[B]`` rewards and group numbers. Rows of length 0 do not count; of equals the first is taken."""
        import torch

        counted = torch.isfinite(rewards) & (lengths > 0)
        numbers, index = torch.unique(groups, return_inverse=True)
        rows = torch.arange(len(groups), device=groups.device)

        def extreme(reduce: str, nothing: float) -> Tensor:
            known = torch.where(counted, rewards, nothing)
            return rewards.new_full((len(numbers),), nothing).scatter_reduce(0, index, known, reduce)

        def first(value: Tensor) -> Tensor:
            place = torch.where(counted & (rewards == value[index]), rows, len(rows))
            return rows.new_full((len(numbers),), len(rows)).scatter_reduce(0, index, place, "amin")

        high, low = extreme("amax", -math.inf), extreme("amin", math.inf)
        found = high > low
        numbered = torch.where(found, found.cumsum(0) - 1, int(found.sum()))
        return cls(first(high)[found], first(low)[found], numbered[index])

    def split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """``[B]`` values as those of the chosen and of the rejected, ``[P]`` each."""
        return values[self.chosen], values[self.rejected]

    def spread(self, values: Tensor) -> Tensor:
        """``[P]`` values to all rows of their groups, ``[B]``; 0 where there is no pair.

        The mean over rows is then the mean over groups, if groups have one size.
        """
        import torch

        return torch.cat([values, values.new_zeros(1)])[self._pair]


def pairs_of(logprobs: Ragged, rewards: Ragged, groups: Tensor) -> Pairs:
    """Pair the rows of a micro-batch; ``rewards`` are those of the rows, spread over their tokens."""
    return Pairs.of(rewards.max(), groups, logprobs.lengths)


def preference_metrics(pairs: Pairs, chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """``[B]`` each: implicit rewards ``[P]`` of both answers, their margin, and how often it is above 0."""
    import torch

    chosen, rejected = chosen.detach(), rejected.detach()
    metrics = {
        "chosen_reward": chosen,
        "rejected_reward": rejected,
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected).to(chosen.dtype),
        "pairs": torch.ones_like(chosen),
    }
    return {name: pairs.spread(values) for name, values in metrics.items()}
