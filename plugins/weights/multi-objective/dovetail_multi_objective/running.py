"""Mean and spread of a stream of batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Running:
    """Merges batches by Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm", equation 2.1.

    Args:
        count: How many numbers were seen, the faded ones counted in part.
        mean: Of them.
        squares: Sum of their squared differences from the mean.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor, decay: float) -> None:
        """Let what was seen fade by ``decay``, then take ``[b]`` more."""
        fresh = values.double()
        seen, number = self.count * decay, len(fresh)
        if not number:
            return
        mean = fresh.mean().item()
        gap, count = mean - self.mean, seen + number
        spread = (fresh - mean).square().sum().item()
        self.squares = self.squares * decay + spread + gap * gap * seen * number / count
        self.mean += gap * number / count
        self.count = count

    @property
    def std(self) -> float:
        """Of all that was seen as the population; 0 before anything was."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0
