"""The graph: an immutable value. Every edit gives a new one and is checked at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import attrs

from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.node import Node, Ref
from dovetail.graph.types import ANY, LOSS, PortType, fits


@attrs.frozen
class LossTerm:
    """A loss node, its weight in the total, and how many steps of a run pass before it counts."""

    ref: Ref
    weight: float = 1.0
    after: int = 0


@attrs.frozen(eq=False, slots=False)
class Graph:
    """Nodes in the order in which they were made, and the losses, which add up.

    Each batch is learnt from ``epochs`` times, in ``minibatches`` optimizer steps an epoch.
    """

    nodes: tuple[Node, ...] = ()
    losses: tuple[LossTerm, ...] = ()
    epochs: int = 1
    minibatches: int = 1

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        if name not in self.by_name:
            raise RecipeError(f"no node is named {name!r}", hint=did_you_mean(name, self.by_name))
        return self.by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def inputs(self) -> list[Node]:
        """The recipe's inputs: agents, prompts, data."""
        return [node for node in self.nodes if node.op.name == "input"]

    def readers(self, name: str) -> list[tuple[Node, str, Ref]]:
        """Who reads any output of a node: reader, its port, the edge."""
        return [(n, port, ref) for n in self.nodes for port, ref in n.inputs.items() if ref.node == name]

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """The nodes that the given ones depend on, themselves included."""
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += [ref.node for ref in self[name].inputs.values()]
        return found

    def with_nodes(self, nodes: Iterable[Node], **changes: Any) -> Graph:
        return attrs.evolve(self, nodes=tuple(nodes), **changes)

    def without(self, names: Collection[str]) -> Graph:
        return self.with_nodes(node for node in self.nodes if node.name not in names)

    def add(self, node: Node) -> Graph:
        """Append a node; if its name is taken, a RecipeError shows both lines."""
        if node.name in self:
            where = [*node.where("second"), *self[node.name].where("first")]
            raise RecipeError(f"two nodes are named {node.name!r}", where=where, hint="pass another name=")
        return self.with_nodes([*self.nodes, node])

    def put(self, node: Node) -> Graph:
        """Replace the node of the same name."""
        return self.with_nodes(node if old.name == node.name else old for old in self.nodes)

    def redirect(self, name: str, to: Ref, *, keep: Collection[str] = ()) -> Graph:
        """Let all who read ``name`` read ``to``; the nodes in ``keep`` go on reading ``name``."""
        main, offered = self[name].output, self[to.node].op.outputs

        def moved(ref: Ref) -> Ref:
            if ref.node != name:
                return ref
            return Ref(to.node, ref.port) if ref.port != main and ref.port in offered else to

        def rewired(node: Node) -> Node:
            return attrs.evolve(node, inputs={port: moved(ref) for port, ref in node.inputs.items()})

        nodes = [node if node.name in keep else rewired(node) for node in self.nodes]
        return self.with_nodes(nodes, losses=tuple(attrs.evolve(loss, ref=moved(loss.ref)) for loss in self.losses))

    def type_of(self, ref: Ref) -> PortType:
        """The type of an output; a RecipeError names the node or port that is not there."""
        node = self[ref.node]
        if ref.port not in node.op.outputs:
            raise node.lacks("output", ref.port, node.op.outputs)
        return node.op.outputs[ref.port]

    def input_types(self) -> dict[str, PortType]:
        """What each input of the recipe must be, told by who reads it; a RecipeError shows readers that disagree."""
        types: dict[str, PortType] = {}
        for name in sorted(node.name for node in self.inputs()):
            wanted: dict[PortType, Node] = {}
            for reader, port, _ in self.readers(name):
                wanted.setdefault(reader.op.inputs.get(port, ANY), reader)
            wanted.pop(ANY, None)
            if len(wanted) > 1:
                (one, first), (other, second), *_ = wanted.items()
                where = [*first.where("first"), *second.where("second")]
                raise RecipeError(f"the input {name!r} is read as {one} and as {other}", where=where)
            types[name] = next(iter(wanted), ANY)
        return types

    def check(self) -> Graph:
        """Re-check ports, types and cycles; a RecipeError shows the lines of both ends."""
        for node in self.nodes:
            for port, ref in node.inputs.items():
                if port not in node.op.inputs:
                    raise node.lacks("port", port, node.op.inputs)
                given, wanted = self.type_of(ref), node.op.inputs[port]
                if not fits(given, wanted):
                    where = [*node.where("read"), *self[ref.node].where("made")]
                    raise RecipeError(f"port {port!r} of {node} wants {wanted}, and {ref} gives {given}", where=where)
        for loss in self.losses:
            node, given = self[loss.ref.node], self.type_of(loss.ref)
            if given not in (LOSS, ANY):
                hint = "wrap it: dt.loss(<name>, …), or an @dt.op that returns dt.LossTerms"
                raise RecipeError(f"{node} gives {given}, which is no loss", where=node.where("made"), hint=hint)
        self.input_types()
        self.ordered()
        return self

    def ordered(self) -> list[Node]:
        """Topological order, stable in the order in which the nodes were made; a RecipeError shows a cycle's lines."""
        made = {node.name: index for index, node in enumerate(self.nodes)}
        sorter = TopologicalSorter({node.name: [ref.node for ref in node.inputs.values()] for node in self.nodes})
        try:
            sorter.prepare()
        except CycleError as error:
            cycle = error.args[1][1:]
            first = cycle.index(min(cycle, key=made.__getitem__))
            cycle = [*cycle[first:], *cycle[: first + 1]]
            where = [line for name in cycle[:-1] for line in self[name].where(name)]
            raise RecipeError(f"the graph has a cycle: {' -> '.join(cycle)}", where=where) from None
        ready: set[str] = set()
        result: list[Node] = []
        while sorter.is_active():
            ready.update(sorter.get_ready())
            result.append(self[min(ready, key=made.__getitem__)])
            ready.remove(result[-1].name)
            sorter.done(result[-1].name)
        return result
