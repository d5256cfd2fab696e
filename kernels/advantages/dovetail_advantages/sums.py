"""Discounted sums from the end of each row: the recurrence of GAE, of returns, and of rewards to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetail import kernel_op

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged

_PAIR = 8  # bytes: a thread's slice as a map of what comes behind it, two float32
_THREADS = 256  # of a row, at most


def plain(terms: list[float], factor: float) -> list[float]:
    """The sums of one row in plain Python."""
    sums, running = [], 0.0
    for term in reversed(terms):
        running = term + factor * running
        sums.append(running)
    return sums[::-1]


def discounted_sums(terms: Ragged, factor: Tensor) -> Ragged:
    """``S_t = x_t + factor * S_{t+1}`` within each row, 0 behind its end.

    With ``x = δ`` and ``factor = γ λ`` these are the advantages of GAE (Schulman et al. 2016, arXiv 1506.02438, equation
    16); with rewards and ``γ``, returns.

    Args:
        terms: A number per token. float32 goes through the kernel, other dtypes through torch.
        factor: ``[B]``, one for each row.
    """
    import torch

    factor = factor.to(terms.values.dtype)
    return scan(terms, factor) if terms.values.dtype == torch.float32 else _by_columns(terms, factor)


@kernel_op(path="scan.cu", scratch=lambda length: _PAIR * _THREADS, baseline=plain)
def scan(terms: Ragged, factor: Tensor) -> Ragged:
    """:func:`discounted_sums` in float32, as a kernel."""
    return _by_columns(terms, factor)


def _by_columns(terms: Ragged, factor: Tensor) -> Ragged:
    """All rows at once, token by token from the longest row's last."""
    import torch

    padded, lengths = terms.to_padded(), terms.lengths
    running, columns = padded.new_zeros(len(terms)), []
    for step in reversed(range(padded.shape[1])):
        # Columns past a row's end hold no step; the sum begins at its last token.
        running = (padded[:, step] + factor * running) * (step < lengths)
        columns.append(running)
    sums = torch.stack(columns[::-1], 1) if columns else padded
    return terms.with_values(sums[terms.row_ids, terms.positions])
