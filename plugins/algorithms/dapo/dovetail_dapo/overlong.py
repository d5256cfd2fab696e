"""A soft limit on the length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import gt

from dovetail import Ragged, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class Overlong:
    """Score in [-1, 0]: 0 up to ``limit - buffer`` tokens, then falling by a straight line to -1 at ``limit``.

    Soft overlong punishment: Yu et al. 2025, DAPO (arXiv 2503.14476), equation 13.

    Args:
        limit: Longest completion in tokens, usually the token limit of the sampling.
        buffer: Tokens before the limit over which the score falls. DAPO: 4096 of 20480.
    """

    limit: int = attrs.field(validator=gt(0))
    buffer: int = attrs.field(validator=gt(0))

    def __attrs_post_init__(self) -> None:
        if self.buffer > self.limit:
            raise ValueError(f"buffer must not be above limit = {self.limit}, got {self.buffer}")

    @hookimpl
    def score(self, completions: Ragged) -> Tensor:
        """``[B]`` from ``[B rows]`` of completion tokens."""
        return ((self.limit - self.buffer - completions.lengths) / self.buffer).clamp(-1.0, 0.0)
