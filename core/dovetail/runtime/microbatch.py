"""Cutting rows into micro-batches by a budget of padded tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def cut(lengths: Tensor, budget: int) -> list[Tensor]:
    """Cut rows into micro-batches whose padded size stays within ``budget`` tokens.

    Rows are sorted by length so that little is padded; a single row longer than the budget goes alone.

    Args:
        lengths: ``[B]`` int64.
        budget: Most padded tokens of one micro-batch.

    Returns:
        Row indices of each micro-batch; every row is in exactly one.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[order].tolist()
    batches, start = [], 0
    while start < len(order):
        rows = max(1, budget // max(sizes[start], 1))
        batches.append(order[start : start + rows])
        start += rows
    return batches
