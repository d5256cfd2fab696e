"""A counter-based generator: the n-th number of a row follows from its seed and n alone."""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def uniform(seeds: Tensor, position: int | Tensor) -> Tensor:
    """Float64 in [0, 1), from int64 seeds and positions that broadcast.

    SplitMix64 (Steele, Lea and Flood 2014) in wrapping int64 arithmetic.
    """
    state = seeds + (position + 1) * torch.tensor(_GOLDEN, device=seeds.device)
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    state = state ^ _shifted(state, 31)
    return _shifted(state, 11).double() / (1 << 53)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
