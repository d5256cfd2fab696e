"""A graph for its readers: what one changes of another, Mermaid text, and plain SVG."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape
from typing import Literal

from dovetail.errors import UserError
from dovetail.graph.graph import Graph, LossTerm
from dovetail.graph.node import Node
from dovetail.graph.recipe import Recipe, as_graph

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 190, 44, 30, 46, 20
_COLOURS = {"input": "#e8eaf6", "loss": "#ffebee", "reward": "#e8f5e9", "advantages": "#fff8e1"}


class Difference(tuple[str, ...]):
    """Lines that begin with ``+`` (new), ``-`` (gone) or ``~`` (changed); prints as text, empty if nothing differs."""

    def __repr__(self) -> str:
        return "\n".join(self) or "no difference"


def diff(before: Graph | Recipe | str, after: Graph | Recipe | str) -> Difference:
    """Compare two recipes or graphs by node name."""
    old, new = as_graph(before), as_graph(after)
    lines = [f"- {node.name}: {node.op.label}" for node in old if node.name not in new]
    for node in new:
        if node.name in old:
            lines += _node_changes(old[node.name], node)
        else:
            inputs = ", ".join(f"{port}={ref}" for port, ref in node.inputs.items())
            lines.append(f"+ {node.name}: {node.op.label}({inputs})")
    return Difference([*lines, *_changes("", _learning(old), _learning(new))])


def _node_changes(old: Node, new: Node) -> list[str]:
    before, after = ({key: repr(value) for key, value in node.settings().items()} for node in (old, new))
    lines = []
    if old.op.label != new.op.label:
        lines = [f"~ {new.name}: {old.op.label} -> {new.op.label}"]
        before, after = (
            {key: value for key, value in one.items() if key in other}
            for one, other in ((before, after), (after, before))
        )
    lines += _changes(f"{new.name}.", before, after, missing="None")
    before, after = ({port: str(ref) for port, ref in node.inputs.items()} for node in (old, new))
    return lines + _changes(f"{new.name}.", before, after, missing="nothing")


def _learning(graph: Graph) -> dict[str, str]:
    terms = [_term(loss) for loss in graph.losses]
    return {"loss": " + ".join(terms), "epochs": str(graph.epochs), "minibatches": str(graph.minibatches)}


def _term(loss: LossTerm) -> str:
    weighted = f"{loss.weight:g} * {loss.ref}" if loss.weight != 1 else str(loss.ref)
    return f"{weighted} (after {loss.after} steps)" if loss.after else weighted


def _changes(prefix: str, old: Mapping[str, str], new: Mapping[str, str], missing: str = "") -> list[str]:
    pairs = {key: (old.get(key, missing), new.get(key, missing)) for key in {**old, **new}}
    return [f"~ {prefix}{key}: {before} -> {after}" for key, (before, after) in pairs.items() if before != after]


def draw(graph: Graph | Recipe | str, format: Literal["mermaid", "svg"] = "mermaid") -> str:
    """Draw a recipe or a graph; a UserError refuses other formats."""
    drawings = {"mermaid": _mermaid, "svg": _svg}
    if format not in drawings:
        raise UserError(f"no drawing format {format!r}", hint=" or ".join(drawings))
    return "\n".join(drawings[format](as_graph(graph))) + "\n"


def _mermaid(graph: Graph) -> list[str]:
    ids = {node.name: f"n{index}" for index, node in enumerate(graph)}
    lines = ["flowchart TD"]
    for node in graph:
        left, right = ("([", "])") if node.op.name == "input" else ("[", "]")
        title = node.name if node.op.label == node.name else f"{node.name}<br/>{node.op.label}"
        lines.append(f'    {ids[node.name]}{left}"{title}"{right}')
    for node in graph:
        lines += [f"    {ids[ref.node]} -->|{port}| {ids[node.name]}" for port, ref in node.inputs.items()]
    lines.append('    loss(["minimise"])')
    for loss in graph.losses:
        weight = f"|{loss.weight:g}|" if loss.weight != 1 else ""
        lines.append(f"    {ids[loss.ref.node]} -->{weight} loss")
    return lines


def _svg(graph: Graph) -> list[str]:
    places = _layout(graph)
    width = _MARGIN * 2 + max(x for x, _ in places.values()) + _WIDTH
    height = _MARGIN * 2 + max(y for _, y in places.values()) + _HEIGHT
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#666"/></marker></defs>',
        *(_line(places[ref.node], places[node.name], port) for node in graph for port, ref in node.inputs.items()),
        *(_box(node, *places[node.name]) for node in graph),
        "</svg>",
    ]


def _layout(graph: Graph) -> dict[str, tuple[int, int]]:
    """Layers by longest path from the inputs, nodes of a layer side by side under the middle of what they read."""
    depth: dict[str, int] = {}
    for node in graph.ordered():
        depth[node.name] = 1 + max((depth[ref.node] for ref in node.inputs.values()), default=-1)
    for node in graph.inputs():
        depth[node.name] = min((depth[reader.name] for reader, _, _ in graph.readers(node.name)), default=1) - 1
    places: dict[str, tuple[int, int]] = {}

    def middle(node: Node) -> float:
        return statistics.fmean([places[ref.node][0] for ref in node.inputs.values()] or [0])

    for layer in range(max(depth.values()) + 1):
        row = sorted([node for node in graph if depth[node.name] == layer], key=middle)
        for index, node in enumerate(row):
            places[node.name] = (_MARGIN + index * (_WIDTH + _GAP_X), _MARGIN + layer * (_HEIGHT + _GAP_Y))
    return places


def _line(start: tuple[int, int], end: tuple[int, int], port: str) -> str:
    x1, y1, x2, y2 = start[0] + _WIDTH // 2, start[1] + _HEIGHT, end[0] + _WIDTH // 2, end[1]
    bend = (y1 + y2) // 2
    return (
        f'<path d="M{x1} {y1} C{x1} {bend} {x2} {bend} {x2} {y2}" fill="none" stroke="#999" '
        f'marker-end="url(#arrow)"><title>{escape(port)}</title></path>'
    )


def _box(node: Node, x: int, y: int) -> str:
    colour = _COLOURS.get(node.op.name, "#f5f5f5")
    label = "" if node.op.label == node.name else node.op.label
    return (
        f"<g><title>{escape(node.source)}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{colour}" stroke="#777"/>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 18}" text-anchor="middle" font-weight="bold">{escape(node.name)}</text>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 34}" text-anchor="middle" fill="#555">{escape(label)}</text></g>'
    )
