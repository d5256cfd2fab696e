"""What a step must cost at least on this machine: its arithmetic at the measured rate of matrix products."""

from __future__ import annotations

import attrs

from dovetail_benchmark.floor import Shape, Work, forward_flops
from dovetail_benchmark.machine import Machine
from versus.workloads import Workload


@attrs.frozen
class Floor:
    """Seconds that each phase cannot go below."""

    generate: float
    learn: float


def floor(workload: Workload, machine: Machine, tokens: int) -> Floor:
    """The floor of one step that samples ``tokens`` tokens.

    Generation reads each prompt once and every weight once a decode step. Training does one forward and two backward
    products of every token, each prompt counted once for its group, and the output layer on sampled tokens alone.
    """
    model = workload.model
    shape = Shape(model.hidden, model.layers, model.intermediate, model.vocabulary)
    length = tokens / (workload.prompts * workload.group)
    work = Work.even(workload.prompts, workload.group, sum(workload.prompt_tokens) / 2, length)
    forward = forward_flops(shape, work) / machine.flops
    read = 4 * (shape.body + shape.head) * workload.completion_tokens[1] / machine.bandwidth
    return Floor(max(forward, read), (4 if workload.beta else 3) * forward)
