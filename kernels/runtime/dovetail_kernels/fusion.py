"""The pass that fuses: kernels that read the same rows become one launch, and each keeps its place in the graph."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch

from dovetail.compiler.plan import Context
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.graph.types import ROLLOUTS
from dovetail.parts import hookimpl
from dovetail.rollouts import Rollouts
from dovetail_kernels.backends import choose
from dovetail_kernels.kernel import Call, Kernel
from dovetail_kernels.launch import Launched, launch
from dovetail_kernels.op import find_kernel
from dovetail_kernels.program import Program

# What can be read off rollouts.
_FACTS = {field.name for field in attrs.fields(Rollouts)} | vars(Rollouts).keys()


@attrs.frozen(eq=False)
class Member:
    """A node that can join a launch: its kernel, and the call that it makes on given rollouts."""

    node: Node
    kernel: Kernel
    source: Ref  #: the rollouts that it looks at
    rows: tuple[str, ...]  #: what of them, by name; members of one launch read the same rows
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
    """Let kernels over the same rows run in one launch, build it, and note what stays apart, and why.

    Nodes stay, and with them the deadline, the statuses and the metrics of each reward; what changes is where their
    values come from. Totals stay too: which rows count in them is known only when every reward has its statuses.

    Raises:
        KernelError: A kernel does not compile.
        UserError: The back end that ``DOVETAIL_KERNELS`` demands is not to be had.
    """
    groups: dict[tuple[Ref, tuple[str, ...]], list[Member]] = {}
    apart: list[str] = []
    for node in graph:
        found = _member(graph, node)
        if isinstance(found, Member):
            groups.setdefault((found.source, found.rows), []).append(found)
        elif found:
            apart.append(f"{node.name} runs apart: {found}")
    for (source, names), members in groups.items():
        rows = f"{', '.join(names)} of {source}"
        # Rollouts live on the CPU. What is built now takes no time of the first batch's deadline.
        back_end = choose(Program.of(tuple(member.kernel for member in members)), torch.device("cpu"))
        if len(members) == 1:
            why = f"other kernels read other rows than {rows}" if len(groups) > 1 else f"no other kernel reads {rows}"
            apart.append(f"{members[0].node.name} runs apart, on {back_end}: {why}")
            continue
        shared = SharedLaunch(members)
        for index, member in enumerate(members):
            graph = graph.put(_fused(member, shared, index))
        together = " + ".join(member.node.name for member in members)
        context.notes.append(f"fuse: {together} are one launch over {rows}, on {back_end}")
    context.notes += [f"fuse: {line}" for line in apart]
    return graph


def _member(graph: Graph, node: Node) -> Member | str | None:
    """A candidate, the reason why it is none, or None for what is neither a reward nor a kernel."""
    part = node.op.part
    kernel, owner, options = find_kernel(part or node.op.function)
    if kernel is None:
        return "it is host code" if node.op.name == "reward" else None
    if part and node.op.name != "reward":
        return "it reads what other nodes compute"
    if part and part.in_process:
        return "it is scored in a process of its own"
    if written := kernel.source.written:
        return f"it writes {written[0].name} for each token"
    asked = part.asks_for("score") if part else tuple(node.inputs)
    source = _source(graph, node)
    if source is None or not _FACTS.issuperset(asked):
        return "it reads more than rollouts"
    own = [owner] if kernel.is_method else []
    settings = options if part else node.options

    def call(rollouts: Rollouts) -> Call:
        return Call.bind(kernel, *own, **{name: getattr(rollouts, name) for name in asked}, **settings)

    return Member(node, kernel, source, tuple(p.name for p in kernel.source.rows), call)


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
