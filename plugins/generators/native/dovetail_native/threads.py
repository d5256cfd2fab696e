"""How many threads an operation of the decode step is worth on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_WORTH_THREADS = 1e7  # multiplications of one product; below, waking a second thread costs more than it does
_WORTH_READING = 2**20  # numbers of a cache; from here on reading them takes longer than waking threads


@contextlib.contextmanager
def fitting(device: torch.device, multiplications: float) -> Iterator[None]:
    """One thread if the work is small. It depends on sizes alone, so numbers repeat."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or multiplications >= _WORTH_THREADS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def reading(cache: torch.Tensor, threads: int) -> Iterator[None]:
    """``threads`` threads, if the cache is large, in the midst of what has one."""
    before = torch.get_num_threads()
    if cache.device.type != "cpu" or threads == before or cache.numel() < _WORTH_READING:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
