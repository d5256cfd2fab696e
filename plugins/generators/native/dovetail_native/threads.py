"""How many threads an operation of the decode step is worth on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_WORTH_THREADS = 1e7  # multiplications of one product; below, waking a second thread costs more than it does
_WORTH_READING = 2**20  # numbers of a cache; from here on reading them takes longer than waking threads


def fitting(device: torch.device, multiplications: float) -> contextlib.AbstractContextManager[None]:
    """One thread if the work is small. It depends on sizes alone, so numbers repeat."""
    is_small = device.type == "cpu" and multiplications < _WORTH_THREADS
    return _using(1 if is_small else torch.get_num_threads())


def reading(cache: torch.Tensor, threads: int) -> contextlib.AbstractContextManager[None]:
    """``threads`` threads, if the cache is large, in the midst of what has one."""
    is_large = cache.device.type == "cpu" and cache.numel() >= _WORTH_READING
    return _using(threads if is_large else torch.get_num_threads())


@contextlib.contextmanager
def _using(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
