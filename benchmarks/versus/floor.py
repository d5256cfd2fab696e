"""What a step must cost at least on this machine: its arithmetic at the measured rate of matrix products."""

from __future__ import annotations

import time
from statistics import median

import attrs
import torch

from versus.workloads import Workload


@attrs.frozen
class Machine:
    """Measured rates.

    Args:
        flops: Of float32 matrix products, per second.
        bandwidth: Bytes read and written by a copy, per second.
    """

    flops: float
    bandwidth: float


def measure(device: str = "cpu", size: int = 1024, repeats: int = 9) -> Machine:
    """The machine's rates: medians of ``repeats`` products and copies."""
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    source = torch.randn(64 * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    return Machine(
        flops=2 * size**3 / _seconds(lambda: left @ right, device, repeats),
        bandwidth=2 * source.numel() * 4 / _seconds(lambda: target.copy_(source), device, repeats),
    )


def _seconds(work: object, device: str, repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        work()  # type: ignore[operator]
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times[2:])


@attrs.frozen
class Floor:
    """Seconds that each phase cannot go below."""

    generate: float
    learn: float


def floor(workload: Workload, machine: Machine, tokens: int) -> Floor:
    """The floor of one step that samples ``tokens`` tokens.

    Generation reads each prompt once and every weight once a decode step. Training does one forward and two backward
    products of every token, each prompt counted once for its group, and the output layer on sampled tokens alone.
    Recomputation, optimizer, sampling and rewards are not counted.
    """
    model = workload.model
    body = model.layers * (4 * model.hidden**2 + 3 * model.hidden * model.intermediate)
    head = model.vocabulary * model.hidden
    prompt = sum(workload.prompt_tokens) / 2
    rows = workload.prompts * workload.group
    length = tokens / rows
    prefill = workload.prompts * prompt
    # A token at position t attends to t others: two products of the hidden width for each.
    within = (
        4 * model.hidden * model.layers * (rows * length * (prompt + length / 2) + workload.prompts * prompt**2 / 2)
    )
    decode = 2 * (body + head) * tokens + 2 * body * prefill + within
    read = 4 * (body + head) * workload.completion_tokens[1]
    generate = max(decode / machine.flops, read / machine.bandwidth)
    forward = 2 * body * (tokens + prefill) + 2 * head * tokens + within
    reference = forward if workload.beta else 0.0
    return Floor(generate, (3 * forward + reference) / machine.flops)
