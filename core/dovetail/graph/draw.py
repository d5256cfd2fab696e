"""Drawings of a graph: Mermaid text and plain SVG."""

from __future__ import annotations

from html import escape
from typing import Literal

from dovetail.errors import UserError
from dovetail.graph.diff import as_graph
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node
from dovetail.graph.recipe import Recipe

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 190, 44, 30, 46, 20
_COLOURS = {"input": "#e8eaf6", "loss": "#ffebee", "reward": "#e8f5e9", "advantages": "#fff8e1"}


def draw(graph: Graph | Recipe | str, format: Literal["mermaid", "svg"] = "mermaid") -> str:
    """Draw a recipe or a graph.

    Raises:
        UserError: Another format was asked for.
    """
    if format == "mermaid":
        return _mermaid(as_graph(graph))
    if format == "svg":
        return _svg(as_graph(graph))
    raise UserError(f"no drawing format {format!r}", hint="mermaid or svg")


def _mermaid(graph: Graph) -> str:
    ids = {node.name: f"n{index}" for index, node in enumerate(graph)}
    lines = ["flowchart TD"]
    for node in graph:
        left, right = ("([", "])") if node.op.name == "input" else ("[", "]")
        lines.append(f'    {ids[node.name]}{left}"{_title(node)}"{right}')
    for node in graph:
        lines += [f"    {ids[ref.node]} -->|{port}| {ids[node.name]}" for port, ref in node.inputs.items()]
    lines.append('    loss(["minimise"])')
    for loss in graph.losses:
        weight = f"|{loss.weight:g}|" if loss.weight != 1 else ""
        lines.append(f"    {ids[loss.ref.node]} -->{weight} loss")
    return "\n".join(lines) + "\n"


def _title(node: Node) -> str:
    return node.name if node.op.label == node.name else f"{node.name}<br/>{node.op.label}"


def _svg(graph: Graph) -> str:
    places = _layout(graph)
    width = _MARGIN * 2 + max(x for x, _ in places.values()) + _WIDTH
    height = _MARGIN * 2 + max(y for _, y in places.values()) + _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#666"/></marker></defs>',
    ]
    for node in graph:
        parts += [_line(places[ref.node], places[node.name], port) for port, ref in node.inputs.items()]
    parts += [_box(node, *places[node.name]) for node in graph]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _layout(graph: Graph) -> dict[str, tuple[int, int]]:
    """Layers by longest path from the inputs, nodes of a layer side by side under the middle of what they read."""
    depth: dict[str, int] = {}
    for node in graph.ordered():
        depth[node.name] = 1 + max((depth[ref.node] for ref in node.inputs.values()), default=-1)
    for node in graph.inputs():
        readers = [depth[reader.name] for reader, _, _ in graph.readers(node.name)]
        depth[node.name] = min(readers, default=1) - 1
    places: dict[str, tuple[int, int]] = {}
    for layer in range(max(depth.values()) + 1):
        names = [node.name for node in graph if depth[node.name] == layer]
        wanted = {name: _middle(graph, name, places) for name in names}
        for index, name in enumerate(sorted(names, key=lambda n: wanted[n])):
            places[name] = (_MARGIN + index * (_WIDTH + _GAP_X), _MARGIN + layer * (_HEIGHT + _GAP_Y))
    return places


def _middle(graph: Graph, name: str, places: dict[str, tuple[int, int]]) -> float:
    above = [places[ref.node][0] for ref in graph[name].inputs.values() if ref.node in places]
    return sum(above) / len(above) if above else 0.0


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
        f"<g><title>{escape(str(node.source or ''))}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{colour}" stroke="#777"/>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 18}" text-anchor="middle" font-weight="bold">{escape(node.name)}</text>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 34}" text-anchor="middle" fill="#555">{escape(label)}</text></g>'
    )
