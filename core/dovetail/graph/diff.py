"""What one algorithm changes of another."""

from __future__ import annotations

from typing import Any

import attrs

from dovetail.graph.graph import Graph
from dovetail.graph.node import Node
from dovetail.graph.recipe import Recipe, as_recipe


@attrs.frozen
class Difference:
    """Lines that begin with ``+`` (new), ``-`` (gone) or ``~`` (changed); prints as text, empty if nothing differs."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines) if self.lines else "no difference"

    def __bool__(self) -> bool:
        return bool(self.lines)

    __repr__ = __str__


def as_graph(value: Graph | Recipe | str) -> Graph:
    return value if isinstance(value, Graph) else as_recipe(value).trace()


def diff(before: Graph | Recipe | str, after: Graph | Recipe | str) -> Difference:
    """Compare two recipes or graphs by node name."""
    old, new = as_graph(before), as_graph(after)
    lines = [f"- {node.name}: {node.op.label}" for node in old if node.name not in new]
    for node in new:
        lines += [f"+ {_describe(node)}"] if node.name not in old else _changes(old[node.name], node)
    losses_old, losses_new = _losses(old), _losses(new)
    if losses_old != losses_new:
        lines.append(f"~ loss: {losses_old} -> {losses_new}")
    for name in ("epochs", "minibatches"):
        if getattr(old, name) != getattr(new, name):
            lines.append(f"~ {name}: {getattr(old, name)} -> {getattr(new, name)}")
    return Difference(tuple(lines))


def _describe(node: Node) -> str:
    inputs = ", ".join(f"{port}={ref}" for port, ref in node.inputs.items())
    return f"{node.name}: {node.op.label}({inputs})"


def _changes(old: Node, new: Node) -> list[str]:
    lines = []
    if old.op.label != new.op.label:
        lines.append(f"~ {new.name}: {old.op.label} -> {new.op.label}")
    else:
        before, after = old.settings(), new.settings()
        for key in {**before, **after}:
            if before.get(key) != after.get(key):
                lines.append(f"~ {new.name}.{key}: {before.get(key)!r} -> {after.get(key)!r}")
    if dict(old.inputs) != dict(new.inputs):
        lines += [
            f"~ {new.name}.{port}: {_edge(old.inputs.get(port))} -> {_edge(new.inputs.get(port))}"
            for port in {**old.inputs, **new.inputs}
            if old.inputs.get(port) != new.inputs.get(port)
        ]
    return lines


def _edge(ref: Any) -> str:
    return "nothing" if ref is None else str(ref)


def _losses(graph: Graph) -> str:
    terms = [f"{loss.weight:g} * {loss.ref}" if loss.weight != 1 else str(loss.ref) for loss in graph.losses]
    return " + ".join(terms)
