"""Mean 0 and variance 1 over all tokens of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail import Ragged


def whitened(advantages: Ragged) -> Ragged:
    """``(A - mean) / sqrt(var + 1e-8)`` over all tokens, sample variance; fewer than two tokens stay as they are."""
    values = advantages.values
    if len(values) < 2:
        return advantages
    return advantages.with_values((values - values.mean()) * (values.var() + 1e-8).rsqrt())
