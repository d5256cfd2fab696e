"""Watching a run node by node: a trace of shapes and statistics, and breakpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.graph.graph import Graph
from dovetail.graph.node import Node
from dovetail.ragged import Ragged
from dovetail.rollouts import Scores


class Watch:
    """Called by the runtime before and after each node.

    Args:
        graph: Whose nodes may be named.
        breakpoints: Names at which Python's debugger stops.

    Raises:
        RecipeError: A name is unknown.
    """

    def __init__(self, graph: Graph, breakpoints: Iterable[str] = ()) -> None:
        self._breakpoints = {graph[name].name for name in breakpoints}
        self._started = 0.0
        self.lines: list[str] = []

    def __call__(self, phase: str, node: Node, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        if phase == "enter":
            if node.name in self._breakpoints:
                breakpoint()  # noqa: T100 - the user asked for it; `node` and `inputs` are at hand
            self._started = time.perf_counter()
            return
        seconds = time.perf_counter() - self._started
        shown = ", ".join(f"{port} {describe(value)}" for port, value in outputs.items())
        self.lines.append(f"{node.name}: {shown} ({seconds * 1e3:.1f} ms)")


def describe(value: Any) -> str:
    """Shape, mean and spread of a value, in one line."""
    if isinstance(value, Scores):
        return f"[{len(value)}] {_statistics(value.values[value.valid])}, {int((~value.valid).sum())} invalid"
    if isinstance(value, Ragged):
        return f"[{len(value)} rows, {len(value.values)} tokens] {_statistics(value.values)}"
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {_statistics(value)}"
    return type(value).__name__


def _statistics(values: Tensor) -> str:
    if not values.numel() or not values.dtype.is_floating_point:
        return ""
    values = values.detach().to(torch.float64)
    return f"mean {values.mean():.4g} std {values.std(correction=0):.4g}"
