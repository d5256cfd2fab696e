"""Implicit ports: what a part asks for and the recipe did not wire is found by name or derived."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from dovetail.errors import RecipeError
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.graph.ops import ENTROPY, FROZEN, ports_of
from dovetail.graph.types import ROLLOUTS
from dovetail.parts import HOOKS_BY_KIND, Part

# A port that is a further output of what another port reads.
_BESIDE = {
    "final_values": ("values", "final"),
    "reward_parts": ("rewards", "parts"),
    "reward_weights": ("rewards", "weights"),
}
_HINTS = {
    "values": "add values = dt.values(value_model, prompts, completions) and pass it",
    "ref_logprobs": "add ref_logprobs = dt.logprobs(ref_policy, prompts, completions) and pass it",
    "returns": "use an estimator that gives returns, or wire the port `returns`",
}


def complete(graph: Graph) -> Graph:
    """Wire every port that a part needs, and cut those that its options leave unused.

    A port takes, in this order: the node of the same name; ``policy_<port>``; what can be derived (``old_logprobs``
    is the frozen copy of ``logprobs``, ``entropy`` is taken beside them, ``returns`` from the advantages). A
    RecipeError tells what is nowhere to be had.
    """
    for node in graph.nodes:
        if node.op.part is not None:
            graph = _complete_node(graph, node, node.op.part)
    return graph.check()


def _complete_node(graph: Graph, node: Node, part: Part) -> Graph:
    needs = part.needs(HOOKS_BY_KIND[part.kind][0])
    inputs = {port: ref for port, ref in node.inputs.items() if port in needs or port == "rollouts"}
    for port in [port for port in ports_of(part) if port in needs and port not in inputs]:
        found = _find(graph, node, port, inputs)
        if found is None:
            what = f"{node} needs `{port}`: {node.op.inputs[port]}, and nothing in the recipe gives it"
            hint = _HINTS.get(port, f"wire it: {port}=<node>")
            raise RecipeError(what, where=node.where("made"), hint=hint)
        if isinstance(found, Node):
            graph, found = graph if found.name in graph else graph.add(found), Ref(found.name, "out")
        inputs[port] = found
    if "rollouts" not in inputs:
        inputs["rollouts"] = _rollouts_of(graph, node, inputs)
    return graph.put(attrs.evolve(node, inputs=inputs))


def _find(graph: Graph, reader: Node, port: str, inputs: Mapping[str, Ref]) -> Ref | Node | None:
    """An output that is there, or a node that derives it from what the reader is given already."""
    for name in (port, f"policy_{port}"):
        if name in graph and name != reader.name:
            return Ref(name, graph[name].output)
    live = inputs.get(port.removeprefix("old_")) if port.startswith("old_") else None
    if live:
        return Node(f"{live.node}@old", FROZEN, {"live": live}, source=reader.source)
    beside = graph[inputs["logprobs"].node] if port == "entropy" and "logprobs" in inputs else None
    if beside and beside.op.name == "logprobs":
        return Node(f"{beside.name}@entropy", ENTROPY, beside.inputs, source=reader.source)
    main, output = _BESIDE.get(port, ("", ""))
    if main in inputs and output in graph[inputs[main].node].op.outputs:
        return Ref(inputs[main].node, output)
    if port == "returns":
        return next((Ref(node.name, "returns") for node in graph if node.op.name == "advantages"), None)
    return None


def _rollouts_of(graph: Graph, node: Node, inputs: Mapping[str, Ref]) -> Ref:
    """The rollouts that its inputs come from, else the only ones that there are."""
    types = graph.input_types()
    all_rollouts = [
        Ref(n.name, port) for n in graph for port, kind in n.op.outputs.items() if ROLLOUTS in (kind, types.get(n.name))
    ]
    above = graph.ancestors(ref.node for ref in inputs.values())
    candidates = [ref for ref in all_rollouts if ref.node in above] or all_rollouts
    made_of = graph.ancestors(ref.node for each in candidates for ref in graph[each.node].inputs.values())
    candidates = [ref for ref in candidates if ref.node not in made_of]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise RecipeError(f"{node} has no rollouts to look at", where=node.where("made"), hint="add dt.generate(…)")
    names = ", ".join(sorted(ref.node for ref in candidates))
    what = f"{node} could look at several rollouts: {names}"
    raise RecipeError(what, where=node.where("made"), hint="say which: rollouts=<node>")
