"""Running the nodes of half a plan in their order: values by port, shared model passes, times."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from torch import Tensor

from dovetail.compiler.plan import Plan
from dovetail.graph.node import Node, Ref
from dovetail.graph.ops import FORWARD_OPS
from dovetail.ragged import Ragged
from dovetail.rollouts import Rollouts
from dovetail.runtime.evaluate import Outputs, arithmetic, broken, read_outputs, start_function, total

Forward = Callable[[Any, Rollouts, Collection[str]], Outputs]  # agent, rollouts, operations: values by operation

_PHASES = {"total": "rewards", **dict.fromkeys(FORWARD_OPS, "forward")}


@contextlib.contextmanager
def timed(seconds: defaultdict[str, float], phase: str) -> Iterator[None]:
    """Add the time inside to a phase."""
    started = time.perf_counter()
    yield
    seconds[phase] += time.perf_counter() - started


class Execution:
    """Nodes run in order, each on the outputs of those before it; ``values`` holds the outputs of each by port."""

    def __init__(
        self, plan: Plan, nodes: Sequence[Node], values: dict[str, Outputs], forward: Forward, watch: Any
    ) -> None:
        self.plan, self.nodes, self.values, self.watch = plan, nodes, values, watch
        values |= {name: {"out": agent} for name, agent in plan.context.agents.items()}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._forward = forward
        self._passes: dict[tuple[Ref, Ref], Outputs] = {}

    def run(self) -> None:
        for node in self.nodes:
            with timed(self.seconds, _PHASES.get(node.op.name, node.op.label if node.op.function else node.op.name)):
                inputs = {port: self.read(ref) for port, ref in node.inputs.items() if ref.node in self.values}
                if self.watch:
                    self.watch.enter(node, inputs)
                self.values[node.name] = self.operate(node, inputs)
                if self.watch:
                    self.watch.leave(node, self.outputs(node.name))

    def outputs(self, name: str) -> Outputs:
        """Of a node that has run."""
        return self.values[name]

    def read(self, ref: Ref) -> Any:
        value = self.outputs(ref.node).get(ref.port)
        if value is None:
            raise broken(self.plan.graph[ref.node], f"gave no {ref.port!r}")
        return value

    def operate(self, node: Node, inputs: dict[str, Any]) -> Outputs:
        """Do what both halves can: functions, model passes, detaching, arithmetic."""
        if node.op.function:
            return read_outputs(node, start_function(node, inputs), inputs)
        if node.op.name in FORWARD_OPS:
            return self._model_pass(node, inputs)
        if node.op.name == "frozen":
            live = inputs["live"]
            return {"out": live.detach() if isinstance(live, Ragged | Tensor) else live}
        return total(node, inputs, self.plan.context.step) if node.op.name == "total" else arithmetic(node, inputs)

    def _model_pass(self, node: Node, inputs: dict[str, Any]) -> Outputs:
        """One pass serves all nodes that read the same agent and rollouts, unless the mode is eager."""
        source, eager = (node.inputs["agent"], node.inputs["completions"]), self.plan.context.eager
        if eager or source not in self._passes:
            twins = [node] if eager else self.nodes
            wanted = {n.op.name for n in twins if (n.inputs.get("agent"), n.inputs.get("completions")) == source}
            agent = self.plan.context.agents[source[0].node]
            self._passes[source] = self._forward(agent, inputs["completions"], wanted)
        passed = self._passes[source]
        return {port: passed[node.op.name if port == "out" else port] for port in node.op.outputs}
