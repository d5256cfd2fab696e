"""Implicit ports: what a part asks for and the recipe did not wire is found by name or derived."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from dovetail.errors import RecipeError
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Op, Ref
from dovetail.graph.ops import ENTROPY, FROZEN
from dovetail.graph.types import ROLLOUTS
from dovetail.parts import HOOKS_BY_KIND

_OLD = {"old_logprobs": "logprobs", "old_values": "values"}
_HINTS = {
    "values": "add values = dt.values(value_model, prompts, completions) and pass it",
    "ref_logprobs": "add ref_logprobs = dt.logprobs(ref_policy, prompts, completions) and pass it",
    "returns": "use an estimator that gives returns, or wire the port `returns`",
}


def complete(graph: Graph) -> Graph:
    """Wire every port that a part needs.

    A port takes, in this order: the node of the same name; ``policy_<port>``; what can be derived (``old_logprobs``
    is the frozen copy of ``logprobs``, ``entropy`` is taken beside them, ``returns`` from the advantages). A port
    that a part's options leave unused is cut.

    Raises:
        RecipeError: Something needed is nowhere to be had.
    """
    for node in list(graph.nodes):
        if node.op.part is not None:
            graph = _complete_node(graph, graph[node.name])
    return graph.check()


def _complete_node(graph: Graph, node: Node) -> Graph:
    part = node.op.part
    assert part is not None
    needed = [port for port in part.needs(HOOKS_BY_KIND[part.kind][0]) if port in node.op.inputs]
    inputs = {port: ref for port, ref in node.inputs.items() if port in needed or port == "rollouts"}
    for port in needed:
        if port in inputs:
            continue
        graph, ref = _find(graph, node, port, inputs)
        if ref is None:
            hint = _HINTS.get(port, f"wire it: {port}=<node>")
            what = f"{node} needs `{port}`: {node.op.inputs[port]}, and nothing in the recipe gives it"
            raise RecipeError(what, where=node.where("made"), hint=hint)
        inputs[port] = ref
    inputs.setdefault("rollouts", _rollouts_of(graph, node, inputs))
    return graph.put(attrs.evolve(node, inputs=inputs))


def _find(graph: Graph, node: Node, port: str, inputs: dict[str, Ref]) -> tuple[Graph, Ref | None]:
    for name in (port, f"policy_{port}"):
        if name in graph and name != node.name:
            return graph, Ref(name, graph[name].output)
    if port in _OLD and _OLD[port] in inputs:
        return _with_node(graph, f"{inputs[_OLD[port]].node}@old", FROZEN, {"live": inputs[_OLD[port]]}, node)
    if port == "entropy" and "logprobs" in inputs:
        beside = graph[inputs["logprobs"].node]
        if beside.op.name == "logprobs":
            return _with_node(graph, f"{beside.name}@entropy", ENTROPY, dict(beside.inputs), node)
    if port == "final_values" and "values" in inputs and "final" in graph[inputs["values"].node].op.outputs:
        return graph, Ref(inputs["values"].node, "final")
    output = port.removeprefix("reward_")
    if output in ("parts", "weights") and "rewards" in inputs and output in graph[inputs["rewards"].node].op.outputs:
        return graph, Ref(inputs["rewards"].node, output)
    if port == "returns":
        return graph, next((Ref(n.name, "returns") for n in graph.nodes if n.op.name == "advantages"), None)
    return graph, None


def _with_node(graph: Graph, name: str, op: Op, inputs: dict[str, Ref], reader: Node) -> tuple[Graph, Ref]:
    if name not in graph:
        graph = graph.add(Node(name, op, inputs, source=reader.source))
    return graph, Ref(name, "out")


def _rollouts_of(graph: Graph, node: Node, inputs: dict[str, Ref]) -> Ref:
    above = {
        ref for name in graph.ancestors(ref.node for ref in inputs.values()) for ref in _gives_rollouts(graph, name)
    }
    candidates = above or {ref for n in graph.nodes for ref in _gives_rollouts(graph, n.name)}
    if len(candidates) == 1:
        return candidates.pop()
    if not candidates:
        raise RecipeError(f"{node} has no rollouts to look at", where=node.where("made"), hint="add dt.generate(…)")
    names = ", ".join(sorted(ref.node for ref in candidates))
    raise RecipeError(
        f"{node} could look at several rollouts: {names}", where=node.where("made"), hint="say which: rollouts=<node>"
    )


def _gives_rollouts(graph: Graph, name: str) -> Iterator[Ref]:
    node = graph[name]
    if node.op.name == "input" and graph.input_types().get(name) == ROLLOUTS:
        yield Ref(name, "out")
    for port, kind in node.op.outputs.items():
        if kind == ROLLOUTS:
            yield Ref(name, port)
