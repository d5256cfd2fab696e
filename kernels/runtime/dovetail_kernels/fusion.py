"""The pass that fuses: kernels that read the same rows become one launch, and each keeps its place in the graph."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from dovetail.compiler.plan import Context
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.graph.types import ROLLOUTS
from dovetail.parts import hookimpl
from dovetail.rollouts import Rollouts
from dovetail_kernels.kernel import Call, Kernel
from dovetail_kernels.launch import Launched, launch
from dovetail_kernels.op import kernel_of


@attrs.frozen(eq=False)
class Member:
    """A node that can join a launch: its kernel, and the call that it makes on given rollouts."""

    node: Node
    kernel: Kernel
    call: Callable[[Rollouts], Call]


class SharedLaunch:
    """One launch for all members: the first that asks for given rollouts starts it, the others wait for the result."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._lock = threading.Lock()
        self._done: weakref.WeakKeyDictionary[Rollouts, Launched] = weakref.WeakKeyDictionary()
        self.launches = 0

    def result(self, index: int, rollouts: Rollouts) -> Any:
        """What the kernel of member ``index`` gives."""
        with self._lock:
            if rollouts not in self._done:
                self.launches += 1
                self._done[rollouts] = launch([member.call(rollouts) for member in self._members])
            return self._done[rollouts].results[index]


class FusedReward:
    """Stands for a reward whose score comes from a shared launch; all else is the reward's own."""

    def __init__(self, own: Any, target: Any, shared: SharedLaunch, index: int) -> None:
        self.own, self.__wrapped__, self._shared, self._index = own, target, shared, index

    @hookimpl
    def score(self, rollouts: Rollouts) -> Any:
        return self._shared.result(self._index, rollouts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


def fuse(graph: Graph, context: Context) -> Graph:
    """Let kernels over the same rollouts run in one launch, and note what stays apart, and why."""
    groups: dict[tuple[Ref, tuple[str, ...]], list[Member]] = {}
    alone: list[str] = []
    for node in graph:
        found = _member(graph, node)
        if isinstance(found, Member):
            names = tuple(p.name for p in found.kernel.source.having("row"))
            groups.setdefault((_source(graph, node), names), []).append(found)
        elif found:
            alone.append(f"fuse: {node.name} runs apart: {found}")
    if not groups:
        context.notes.append("fuse: no row kernels in this graph")
        return graph
    for (source, names), members in groups.items():
        what = f"{', '.join(names)} of {source}"
        if len(members) == 1:
            alone.append(f"fuse: {members[0].node.name} runs apart: no other kernel reads {what}")
            continue
        shared = SharedLaunch(members)
        for index, member in enumerate(members):
            graph = graph.put(_fused(member, shared, index))
        context.notes.append(f"fuse: {' + '.join(m.node.name for m in members)} are one launch over {what}")
    context.notes += alone
    return graph


def _member(graph: Graph, node: Node) -> Member | str | None:
    """A candidate, the reason why it is none, or None for what is no reward and no kernel."""
    part = node.op.part
    if part and part.kind == "rewards":
        # A function that serves as a reward carries its kernel where its options are bound.
        function = getattr(part.instance.score, "func", part.instance.score)
        kernel = kernel_of(function)
        if kernel is None:
            return "host code"
        if part.in_process:
            return "it is scored in a process of its own"
        if outs := kernel.source.having("out"):
            return f"it writes {outs[0].name} for each token"

        def call(rollouts: Rollouts) -> Call:
            given = {name: getattr(rollouts, name) for name in part.asks_for("score")}
            score = part.instance.score
            bound = getattr(score, "__self__", None)
            return Call.bind(kernel, *([bound] if kernel.is_method else []), **given, **getattr(score, "keywords", {}))

        return Member(node, kernel, call)
    if kernel := kernel_of(node.op.function):
        sources = {ref for ref in node.inputs.values()}
        if len(sources) > 1 or _source(graph, node) is None:
            return "its inputs are no rollouts"

        def call_op(rollouts: Rollouts) -> Call:
            given = {name: getattr(rollouts, name) for name in node.inputs}
            return Call.bind(kernel, **given, **node.options)

        return Member(node, kernel, call_op)
    return None


def _source(graph: Graph, node: Node) -> Ref | None:
    """The rollouts that a node looks at."""
    types = graph.input_types()
    found = [ref for ref in node.inputs.values() if ROLLOUTS in (graph.type_of(ref), types.get(ref.node))]
    return found[0] if found else None


def _fused(member: Member, shared: SharedLaunch, index: int) -> Node:
    node, part = member.node, member.node.op.part
    if part:
        instance = FusedReward(part.instance, part.target, shared, index)
        return attrs.evolve(node, op=attrs.evolve(node.op, part=attrs.evolve(part, instance=instance)))

    def function(**given: Any) -> Any:
        return shared.result(index, next(iter(given.values())))

    return attrs.evolve(node, op=attrs.evolve(node.op, function=function))
