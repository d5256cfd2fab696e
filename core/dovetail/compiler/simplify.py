"""Fold, common sub-expressions, dead nodes: what need not run does not."""

from __future__ import annotations

from dovetail.compiler.plan import Context
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.parts import HOOKS_BY_KIND

_NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}


def fold(graph: Graph, context: Context) -> Graph:
    """Use what the options already decide: losses of weight 0, sums with 0, products with 1, ports left unused."""
    kept = tuple(loss for loss in graph.losses if loss.weight != 0)
    for loss in graph.losses:
        if loss.weight == 0:
            context.note(f"fold: {loss.ref.node} has weight 0 and goes")
    graph = graph.with_nodes(graph.nodes, losses=kept or graph.losses)
    for node in graph:
        part = node.op.part
        if part is not None:
            hook = HOOKS_BY_KIND[part.kind][0]
            unused = [port for port in part.asks_for(hook) if port in node.op.inputs and port not in part.needs(hook)]
            if unused:
                context.note(f"fold: {node.name} leaves {', '.join(unused)} unused")
        elif node.options.get("number") == _NEUTRAL.get(node.op.name, ""):
            graph = graph.redirect(node.name, node.inputs["left"])
            context.note(f"fold: {node.name} changes nothing and goes")
    return graph


def merge_common(graph: Graph, context: Context) -> Graph:
    """Two nodes that compute the same from the same become one; inputs bound to one agent are one."""
    seen: dict[object, str] = {}
    for node in graph.ordered():
        node = graph[node.name]
        key = _key(node, context)
        if key is None:
            continue
        first = seen.setdefault(key, node.name)
        if first != node.name:
            for port in node.op.outputs:
                graph = graph.redirect(node.name, Ref(first, port))
            context.note(f"common: {node.name} is the same as {first}")
    return graph


def _key(node: Node, context: Context) -> object:
    if node.op.name == "input":
        return id(context.agents[node.name]) if node.name in context.agents else None
    if not node.op.pure:
        return None
    inputs = tuple(sorted((port, str(ref)) for port, ref in node.inputs.items()))
    return (node.op.identity(), inputs, repr(sorted(node.options.items())))


def drop_dead(graph: Graph, context: Context) -> Graph:
    """Drop what no loss needs. Rewards stay: they are metrics too."""
    wanted = [loss.ref.node for loss in graph.losses] + [n.name for n in graph if n.op.name in ("reward", "total")]
    live = graph.ancestors(wanted)
    for node in graph:
        if node.name not in live and node.op.name != "input":
            context.note(f"dead: {node.name} is not needed and goes")
    return graph.with_nodes(node for node in graph if node.name in live or node.op.name == "input")


def fuse(graph: Graph, context: Context) -> Graph:
    """Seam for the fusion of row kernels: no part of this version offers a kernel, so the graph stays as it is."""
    context.note("fuse: no row kernels in this graph")
    return graph
