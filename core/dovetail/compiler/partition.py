"""Partition: what runs once a step without gradients, and what runs in every minibatch with them."""

from __future__ import annotations

import attrs

from dovetail.compiler.plan import Context, Plan
from dovetail.errors import RecipeError
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.graph.ops import FORWARD_OPS, FROZEN
from dovetail.graph.types import LOSS, ROLLOUTS


def partition(graph: Graph, context: Context, *, share_live: bool = True) -> Plan:
    """Cut the graph in two.

    Args:
        share_live: With one optimizer step for a batch, take a frozen value that only losses read from the live one,
            detached, instead of from a pass of its own.

    Raises:
        RecipeError: The losses look at several rollouts.
    """
    live = _live_nodes(graph, context)
    graph = _freeze_for_collect(graph, live)
    one_step = graph.epochs == 1 and graph.minibatches == 1
    learn_names = {
        name for name in graph.ancestors(loss.ref.node for loss in graph.losses) if _learns(graph[name], live)
    }
    detached = frozenset(
        node.name
        for node in graph
        if share_live
        and one_step
        and node.op.name == "frozen"
        and node.inputs["live"].node in learn_names
        and all(reader.name in learn_names for reader, _, _ in graph.readers(node.name))
    )
    learn_names |= detached
    order = graph.ordered()
    carried = {
        ref
        for n in order
        if n.name in learn_names
        for ref in n.inputs.values()
        if ref.node not in learn_names and graph[ref.node].op.name != "input"
    } | {loss.ref for loss in graph.losses if loss.ref.node not in learn_names}
    sinks = {ref.node for ref in carried} | {n.name for n in order if n.op.name in ("reward", "total")}
    collect_names = graph.ancestors(sinks)
    collect = tuple(node for node in order if node.name in collect_names and node.op.name != "input")
    learn = tuple(node for node in order if node.name in learn_names)
    _explain(context, collect, learn, detached)
    rollouts = _learn_rollouts(graph, learn)
    return Plan(graph, collect, learn, tuple(sorted(carried, key=str)), detached, rollouts)


def _live_nodes(graph: Graph, context: Context) -> set[str]:
    """Nodes whose value changes with the weights that are learnt."""
    live: set[str] = set()
    for node in graph.ordered():
        agent = node.inputs.get("agent")
        trains = node.op.name in FORWARD_OPS and agent is not None
        if (trains and agent is not None and getattr(context.agents.get(agent.node), "trainable", False)) or (
            node.op.place != "collect" and any(ref.node in live for ref in node.inputs.values())
        ):
            live.add(node.name)
    return live


def _learns(node: Node, live: set[str]) -> bool:
    return node.name in live or node.op.place == "learn" or LOSS in node.op.outputs.values()


def _freeze_for_collect(graph: Graph, live: set[str]) -> Graph:
    for node in graph.nodes:
        if node.op.place != "collect" or node.op.name == "frozen":
            continue
        for port, ref in node.inputs.items():
            if ref.node not in live:
                continue
            suffix = "" if ref.port == graph[ref.node].output else f".{ref.port}"
            name = f"{ref.node}{suffix}@old"
            if name not in graph:
                kind = graph.type_of(ref)
                op = attrs.evolve(FROZEN, inputs={"live": kind}, outputs={"out": kind})
                graph = graph.add(Node(name, op, {"live": ref}, source=node.source))
            current = graph[node.name]
            graph = graph.put(attrs.evolve(current, inputs={**current.inputs, port: Ref(name, "out")}))
    return graph


def _learn_rollouts(graph: Graph, learn: tuple[Node, ...]) -> Ref:
    found = {
        ref
        for node in learn
        for ref in node.inputs.values()
        if graph.type_of(ref) == ROLLOUTS or graph.input_types().get(ref.node) == ROLLOUTS
    }
    if len(found) != 1:
        names = ", ".join(sorted(map(str, found))) or "none"
        raise RecipeError(
            f"all losses must look at the same rollouts, and these look at: {names}",
            where=[line for node in learn for line in node.where(node.name)],
        )
    return found.pop()


def _explain(context: Context, collect: tuple[Node, ...], learn: tuple[Node, ...], detached: frozenset[str]) -> None:
    context.note(f"partition: collect = {', '.join(node.name for node in collect) or 'nothing'}")
    context.note(f"partition: learn = {', '.join(node.name for node in learn)}")
    for name in sorted(detached):
        context.note(f"partition: {name} is the live value, detached: one optimizer step needs no pass of its own")
