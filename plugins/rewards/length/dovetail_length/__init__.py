"""Reward completions near a length, or below a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import gt, optional

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


@attrs.frozen
class Length:
    """Score in [-1, 0] by the number of tokens from the policy's first on, those of tools included.

    With ``target``: ``-|length - target| / target``, floored at -1. With ``limit``: 0 up to ``limit - buffer``, then
    falling in a straight line to -1 at ``limit`` (soft overlong punishment, DAPO, arXiv 2503.14476, equation 13).

    Args:
        target: Length in tokens that scores 0; 64 if neither is given. Usual: the length of a good answer.
        limit: Length in tokens from which on the score is -1. Usual: the ``max_tokens`` of the sampling.
        buffer: Tokens before the limit over which the score falls; null takes a quarter of the limit. Usual: a tenth
            to a quarter of it (the paper: 4096 of 20480).
    """

    target: int | None = attrs.field(default=None, validator=optional(gt(0)))
    limit: int | None = attrs.field(default=None, validator=optional(gt(0)))
    buffer: int | None = attrs.field(default=None, validator=optional(gt(0)))

    def __attrs_post_init__(self) -> None:
        if self.target is not None and self.limit is not None:
            raise ValueError("give either target or limit")
        if self.buffer is not None and (self.limit is None or self.buffer > self.limit):
            raise ValueError("buffer belongs to limit and is at most as long")

    @hookimpl
    def score(self, completions: Ragged) -> Tensor:
        """``[B]``; see the class."""
        lengths = completions.lengths
        if self.limit is None:
            target = self.target or 64
            return -((lengths - target).abs() / target).clamp(max=1.0)
        buffer = self.buffer or max(1, self.limit // 4)
        return -((lengths - (self.limit - buffer)) / buffer).clamp(min=0.0, max=1.0)
