"""Changing an option of a compiled recipe between two steps, for extensions that control a run."""

from __future__ import annotations

from typing import Any

import attrs

from dovetail.compiler.compile import Compiled
from dovetail.errors import RecipeError
from dovetail.graph.edit import Editor
from dovetail.graph.node import Node
from dovetail.graph.ops import GENERATE, ports_of
from dovetail.parts import HOOKS_BY_KIND


def option(compiled: Compiled, node: str, name: str) -> Any:
    """The value of an option of a node; a RecipeError tells the node or option that is not there."""
    found = compiled.graph[node]
    known = found.settings()
    if found.op is GENERATE:
        known = attrs.asdict(compiled.plan.context.sampling_of(found), recurse=False)
    if name not in known:
        raise found.lacks("option", name, known)
    return known[name]


def adjust(compiled: Compiled, node: str, **options: Any) -> None:
    """Set options of a node from the next step on.

    The passes have been over the graph already and do not come again: an option that was off, and whose data is
    therefore not computed, cannot be switched on, which is a RecipeError.
    """
    editor = Editor(compiled.graph)
    editor.set(node, **options)
    changed = editor.graph[node]
    _check(changed)

    def swapped(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        return tuple(changed if each.name == node else each for each in nodes)

    plan = compiled.plan
    compiled.plan = attrs.evolve(
        plan, graph=editor.graph, collect=swapped(plan.collect), learn=swapped(plan.learn)
    )  # fmt: skip


def _check(node: Node) -> None:
    part = node.op.part
    if part is None:
        return
    if part.has("state_dict"):
        raise RecipeError(f"{node} has a state, which a change of its options would lose")
    needed = part.needs(HOOKS_BY_KIND[part.kind][0])
    missing = [port for port in ports_of(part) if port in needed and port not in node.inputs]
    if missing:
        what = f"{node} would now need {', '.join(missing)}, which this run does not compute"
        raise RecipeError(what, hint="begin with a small value in the place of one that switches it off")
