"""The graph: an immutable value. Every edit gives a new one and is checked at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs

from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.node import Node, Ref
from dovetail.graph.types import ANY, LOSS, PortType, fits


@attrs.frozen
class LossTerm:
    """A loss node and its weight in the total."""

    ref: Ref
    weight: float = 1.0


@attrs.frozen(eq=False, slots=False)
class Graph:
    """Nodes by name, the losses, and how often the learning part repeats.

    Args:
        nodes: In the order in which they were made.
        losses: They add up.
        epochs: Times that a batch is learnt from.
        minibatches: Optimizer steps in one epoch.
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

    def add(self, node: Node) -> Graph:
        """Append a node.

        Raises:
            RecipeError: The name is taken; both lines are shown.
        """
        if node.name in self.by_name:
            first = self.by_name[node.name]
            raise RecipeError(
                f"two nodes are named {node.name!r}",
                where=[*node.where("second"), *first.where("first")],
                hint="pass another name=",
            )
        return self.with_nodes([*self.nodes, node])

    def put(self, node: Node) -> Graph:
        """Replace the node of the same name."""
        return self.with_nodes([node if old.name == node.name else old for old in self.nodes])

    def redirect(self, name: str, to: Ref, *, keep: Iterable[str] = ()) -> Graph:
        """Let all who read ``name`` read ``to``; the nodes in ``keep`` go on reading ``name``."""
        kept = set(keep)

        def moved(node: Node) -> Node:
            if node.name in kept or not any(ref.node == name for ref in node.inputs.values()):
                return node
            inputs = {port: self._moved(ref, name, to) for port, ref in node.inputs.items()}
            return attrs.evolve(node, inputs=inputs)

        losses = tuple(attrs.evolve(loss, ref=self._moved(loss.ref, name, to)) for loss in self.losses)
        return self.with_nodes(map(moved, self.nodes), losses=losses)

    def _moved(self, ref: Ref, name: str, to: Ref) -> Ref:
        if ref.node != name:
            return ref
        main = ref.port == self[name].output
        same_port = to.node in self.by_name and ref.port in self[to.node].op.outputs
        return to if main or not same_port else Ref(to.node, ref.port)

    def type_of(self, ref: Ref) -> PortType:
        """The type of an output.

        Raises:
            RecipeError: The node has no such port.
        """
        node = self[ref.node]
        if ref.port not in node.op.outputs:
            raise RecipeError(
                f"{node} has no output {ref.port!r}",
                where=node.where("made"),
                hint=did_you_mean(ref.port, node.op.outputs),
            )
        return node.op.outputs[ref.port]

    def input_types(self) -> dict[str, PortType]:
        """What each input of the recipe must be, told by who reads it.

        Raises:
            RecipeError: Two readers disagree.
        """
        types: dict[str, PortType] = {}
        first: dict[str, Node] = {}
        inputs = {node.name for node in self.inputs()}
        for node in self.nodes:
            for port, ref in node.inputs.items():
                wanted = node.op.inputs.get(port, ANY)
                if ref.node not in inputs or wanted == ANY:
                    continue
                if types.setdefault(ref.node, wanted) != wanted:
                    raise RecipeError(
                        f"the input {ref.node!r} is read as {types[ref.node]} and as {wanted}",
                        where=[*first[ref.node].where("first"), *node.where("second")],
                    )
                first.setdefault(ref.node, node)
        return {name: types.get(name, ANY) for name in sorted(inputs)}

    def check(self) -> Graph:
        """Re-check ports, types and cycles.

        Raises:
            RecipeError: With the lines of both ends.
        """
        for node in self.nodes:
            for port, ref in node.inputs.items():
                self._check_edge(node, port, ref)
        for loss in self.losses:
            if self.type_of(loss.ref) not in (LOSS, ANY):
                node = self[loss.ref.node]
                raise RecipeError(
                    f"{node} gives {self.type_of(loss.ref)}, which is no loss",
                    where=node.where("made"),
                    hint="wrap it: dt.loss(<name>, …), or an @dt.op that returns dt.LossTerms",
                )
        self.input_types()
        self.ordered()
        return self

    def _check_edge(self, node: Node, port: str, ref: Ref) -> None:
        if port not in node.op.inputs:
            hint = did_you_mean(port, node.op.inputs)
            raise RecipeError(f"{node} has no port {port!r}", where=node.where("made"), hint=hint)
        if ref.node not in self:
            hint = did_you_mean(ref.node, self.by_name)
            raise RecipeError(
                f"{node} reads {ref.node!r}, which is not in the graph", where=node.where("made"), hint=hint
            )
        given, wanted = self.type_of(ref), node.op.inputs[port]
        if not fits(given, wanted):
            raise RecipeError(
                f"port {port!r} of {node} wants {wanted}, and {ref} gives {given}",
                where=[*node.where("read"), *self[ref.node].where("made")],
            )

    def ordered(self) -> list[Node]:
        """Topological order, stable in the order in which the nodes were made.

        Raises:
            RecipeError: The graph has a cycle; its nodes and lines are shown.
        """
        done: set[str] = set()
        result: list[Node] = []
        waiting = list(self.nodes)
        while waiting:
            ready = next((n for n in waiting if all(ref.node in done for ref in n.inputs.values())), None)
            if ready is None:
                cycle = self._cycle(waiting)
                names = " -> ".join([*(node.name for node in cycle), cycle[0].name])
                raise RecipeError(f"the graph has a cycle: {names}", where=[p for n in cycle for p in n.where(n.name)])
            done.add(ready.name)
            result.append(ready)
            waiting.remove(ready)
        return result

    def _cycle(self, waiting: list[Node]) -> list[Node]:
        stuck = {node.name for node in waiting}
        path = [waiting[0]]
        while True:
            following = next(ref.node for ref in path[-1].inputs.values() if ref.node in stuck)
            names = [node.name for node in path]
            if following in names:
                return path[names.index(following) :]
            path.append(self[following])
