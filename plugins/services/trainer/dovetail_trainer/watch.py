"""What ``compiled.run(trace=True, breakpoints=[…])`` shows of the nodes of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from dovetail.graph.graph import Graph
from dovetail.graph.node import Node
from dovetail.ragged import Ragged
from dovetail.rollouts import Scores


class Watch:
    """Is told of each node: keeps a line of its outputs, and stops Python's debugger at breakpoints."""

    def __init__(self, graph: Graph, breakpoints: Iterable[str] = ()) -> None:
        self._breakpoints = {graph[name].name for name in breakpoints}
        self._started = 0.0
        self.lines: list[str] = []

    def enter(self, node: Node, inputs: Mapping[str, Any]) -> None:
        if node.name in self._breakpoints:
            breakpoint()  # noqa: T100 - the user asked for it; `node` and `inputs` are at hand
        self._started = time.perf_counter()

    def leave(self, node: Node, outputs: Mapping[str, Any]) -> None:
        seconds = time.perf_counter() - self._started
        shown = ", ".join(f"{port} {_describe(value)}" for port, value in outputs.items())
        self.lines.append(f"{node.name}: {shown} ({seconds * 1e3:.1f} ms)")


def _describe(value: Any) -> str:
    """Shape, mean and spread of a value."""
    if isinstance(value, Scores):
        return f"[{len(value)}]{_statistics(value.values[value.valid])}, {int((~value.valid).sum())} invalid"
    if isinstance(value, Ragged):
        return f"[{len(value)} rows, {len(value.values)} tokens]{_statistics(value.values)}"
    return f"{list(value.shape)}{_statistics(value)}" if isinstance(value, Tensor) else type(value).__name__


def _statistics(values: Tensor) -> str:
    if not values.numel() or not values.dtype.is_floating_point:
        return ""
    values = values.detach().double()
    return f" mean {values.mean():.4g} std {values.std(correction=0):.4g}"
