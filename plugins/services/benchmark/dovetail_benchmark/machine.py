"""What this machine can do: measured rates of matrix products and of copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import torch

REPEATS = 9
WARMUP = 2
ENOUGH = 1.0  # seconds after which three repeats must do
COPIED = 64 * 2**20  # bytes, more than most caches hold


@attrs.frozen
class Machine:
    """Measured rates.

    Args:
        flops: Floating-point operations of matrix products, per second.
        bandwidth: Bytes read and written by a copy, per second.
    """

    flops: float
    bandwidth: float


def measure(device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Machine:
    """Both rates; ``dtype`` is that of the products, float32 if it is not given."""
    return Machine(product_rate(device, dtype), copy_rate(device))


def product_rate(device: torch.device | str = "cpu", dtype: torch.dtype | None = None, size: int = 0) -> float:
    """Median FLOP/s of products of two square matrices.

    Args:
        device: Where.
        dtype: Of the matrices, float32 if it is not given.
        size: Their rows; 0 takes 1,024 on the CPU and 8,192 elsewhere. Smaller ones do not fill a GPU.
    """
    import torch

    device = torch.device(device)
    size = size or (1024 if device.type == "cpu" else 8192)
    left, right = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    # As layers multiply: where there is no fast bfloat16, the layout alone makes a difference of ten.
    return 2 * size**3 / _seconds(lambda: torch.nn.functional.linear(left, right), device)


def copy_rate(device: torch.device | str = "cpu") -> float:
    """Median bytes a second that a large copy reads and writes."""
    import torch

    device = torch.device(device)
    source = torch.randn((COPIED if device.type == "cpu" else 16 * COPIED) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _seconds(lambda: target.copy_(source), device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of several times, after a warm-up; of fewer where each takes long."""
    import torch

    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < WARMUP + REPEATS:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
        if len(times) >= WARMUP + 3 and time.perf_counter() - begun > ENOUGH:
            break
    return median(times[WARMUP:])
