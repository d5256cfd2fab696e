"""The editing face of a graph: handles that look like values, and edits that are checked at once."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from dovetail.errors import DovetailError, RecipeError, did_you_mean
from dovetail.graph.graph import Graph, LossTerm
from dovetail.graph.node import Node, Op, Ref, caller
from dovetail.graph.ops import FORWARD_OPS, arithmetic_op, generate_options, part_op
from dovetail.graph.types import ANY, LOSS, PortType, joined
from dovetail.registry import registry

_current: contextvars.ContextVar[Editor] = contextvars.ContextVar("editor")


def editor(what: str) -> Editor:
    """The editor of the recipe that is being traced.

    Raises:
        RecipeError: None is; ``what`` was called outside a recipe.
    """
    try:
        return _current.get()
    except LookupError:
        raise RecipeError(
            f"{what} makes a node, and no recipe is being traced",
            where=[str(caller())],
            hint="call it inside a function under @dt.recipe or @dt.algorithm",
        ) from None


class Handle:
    """An output of a node, as a recipe sees it. Arithmetic with handles and numbers makes nodes."""

    def __init__(self, editor: Editor, ref: Ref) -> None:
        self._editor = editor
        self._ref = ref

    @property
    def name(self) -> str:
        return self._ref.node

    @property
    def type(self) -> PortType:
        graph = self._editor.graph
        return graph.input_types().get(self._ref.node) or graph.type_of(self._ref)

    def replace_with(self, other: Handle) -> Handle:
        """Let all readers of this node read ``other``, which takes over its name."""
        return self._editor.replace(self, other)

    def __getattr__(self, port: str) -> Handle:
        if port.startswith("__"):
            raise AttributeError(port)
        self._editor.graph.type_of(Ref(self._ref.node, port))
        return Handle(self._editor, Ref(self._ref.node, port))

    def __add__(self, other: Handle | float) -> Handle:
        return self._editor.combine("add", self, other)

    def __sub__(self, other: Handle | float) -> Handle:
        return self._editor.combine("sub", self, other)

    def __mul__(self, other: Handle | float) -> Handle:
        return self._editor.combine("mul", self, other)

    def __truediv__(self, other: Handle | float) -> Handle:
        return self._editor.combine("div", self, other)

    def __rsub__(self, other: float) -> Handle:
        return self._editor.combine("rsub", self, other)

    def __rtruediv__(self, other: float) -> Handle:
        return self._editor.combine("rdiv", self, other)

    def __neg__(self) -> Handle:
        return self._editor.combine("mul", self, -1.0)

    __radd__ = __add__
    __rmul__ = __mul__

    def __bool__(self) -> bool:
        raise RecipeError(
            f"{self.name!r} has no value while the recipe is traced, so it cannot steer an `if`",
            where=[str(caller())],
            hint="branch on an option, or put the logic into an @dt.op",
        )

    def __repr__(self) -> str:
        return f"<{self._ref}: {self.type}>"


class Editor:
    """The controller that recipes and algorithms are given: a graph underneath, edited in place."""

    def __init__(self, graph: Graph | None = None) -> None:
        self.graph = graph or Graph()

    @contextlib.contextmanager
    def tracing(self) -> Iterator[Editor]:
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def __getattr__(self, name: str) -> Handle:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.handle(name)

    def _node(self, name: str) -> Node:
        try:
            return self.graph[name]
        except RecipeError as error:
            raise RecipeError(error.what, where=[str(caller())], hint=error.hint) from None

    def handle(self, name: str) -> Handle:
        """The main output of a node."""
        return Handle(self, Ref(name, self._node(name).output))

    def add(
        self, op: Op, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None, name: str | None = None
    ) -> Handle:
        """Append a node that reads handles."""
        chosen = name or self._free_name(op.part.name.replace("-", "_") + "_" + op.name if op.part else op.name)
        refs = {port: self._ref(value, port) for port, value in inputs.items()}
        node = Node(chosen, op, refs, dict(options or {}), caller())
        self._commit(self.graph.add(node))
        return Handle(self, Ref(chosen, node.output))

    def _free_name(self, wanted: str) -> str:
        names = (wanted if count == 1 else f"{wanted}_{count}" for count in range(1, len(self.graph.nodes) + 2))
        return next(name for name in names if name not in self.graph)

    def _ref(self, value: Any, port: str) -> Ref:
        if not isinstance(value, Handle):
            raise RecipeError(
                f"port {port!r} needs a node, got {type(value).__name__} {value!r}",
                where=[str(caller())],
                hint="pass what another dt.… call returned, or an input of the recipe",
            )
        if value._editor is not self:
            raise RecipeError(f"{value!r} belongs to another recipe", where=[str(caller())])
        return value._ref

    def _commit(self, graph: Graph) -> None:
        self.graph = graph.check()

    # ---- edits

    def set(self, name: str, **options: Any) -> Handle:
        """Change options of a node, or of its part."""
        node = self._node(name)
        part = node.op.part
        known = {*node.settings(), *(generate_options() if node.op.name == "generate" else ())}
        own = {key: value for key, value in options.items() if part is None or key in node.options}
        unknown = [key for key in options if key not in known]
        if unknown:
            where = [str(caller()), *node.where("made")]
            raise RecipeError(f"{node} has no option {unknown[0]!r}", where=where, hint=did_you_mean(unknown[0], known))
        changed = attrs.evolve(node, options={**node.options, **own})
        if part is not None:
            inner = {key: value for key, value in options.items() if key not in own}
            changed = attrs.evolve(changed, op=part_op(make_part(part.kind, part.name, {**part.options(), **inner})))
        self._commit(self.graph.put(changed))
        return self.handle(name)

    def drop(self, name: str) -> None:
        """Remove a node that nobody reads."""
        node = self._node(name)
        readers = [reader for reader, _, _ in self.graph.readers(name)]
        if readers or any(loss.ref.node == name for loss in self.graph.losses):
            by = readers[0].name if readers else "the loss"
            where = [str(caller()), *(readers[0].where("read") if readers else node.where("made"))]
            raise RecipeError(
                f"{name!r} cannot be dropped: {by!r} reads it", where=where, hint="replace it, or wire its readers anew"
            )
        self._commit(self.graph.with_nodes(n for n in self.graph.nodes if n.name != name))

    def wire(self, name: str, **ports: Handle) -> Handle:
        """Connect ports of a node to other outputs."""
        node = self._node(name)
        refs = {port: self._ref(value, port) for port, value in ports.items()}
        self._commit(self.graph.put(attrs.evolve(node, inputs={**node.inputs, **refs}, source=caller())))
        return self.handle(name)

    def insert_after(self, name: str, make: Callable[[Handle], Handle]) -> Handle:
        """Let all readers of a node read ``make(node)`` instead."""
        old = self.handle(name)
        before = set(self.graph.by_name)
        with self.tracing():
            new = make(old)
        added = set(self.graph.by_name) - before
        self._commit(self.graph.redirect(name, new._ref, keep=added))
        return new

    def insert_before(self, name: str, port: str, make: Callable[[Handle], Handle]) -> Handle:
        """Let ``port`` of a node read ``make(what it read)`` instead."""
        node = self._node(name)
        if port not in node.inputs:
            raise RecipeError(
                f"{node} reads nothing at port {port!r}", where=[str(caller())], hint=did_you_mean(port, node.inputs)
            )
        with self.tracing():
            new = make(Handle(self, node.inputs[port]))
        self.wire(name, **{port: new})
        return new

    def replace(self, old: Handle, new: Handle) -> Handle:
        """``new`` takes the place and the name of ``old``; what nobody reads any more goes."""
        if old.name == new.name:
            return new
        name, temporary = old.name, new.name
        made_of_old = self.graph.ancestors([temporary])
        graph = self.graph.redirect(name, new._ref, keep=made_of_old)
        if name in made_of_old:
            graph = _renamed(graph, name, self._free_name(f"{name}_before"))
        elif self.graph[name].op.name != "input":
            graph = graph.with_nodes(n for n in graph.nodes if n.name != name)
        else:
            self._commit(graph)
            return new
        graph = _renamed(graph, temporary, name)
        self._commit(_without_orphans(graph, self.graph.ancestors([name]) - {name}))
        return self.handle(name)

    # ---- losses and arithmetic

    def set_losses(self, handle: Handle, *, epochs: int, minibatches: int) -> None:
        for label, value in (("epochs", epochs), ("minibatches", minibatches)):
            if not isinstance(value, int) or value < 1:
                raise RecipeError(f"{label} must be a whole number from 1, got {value!r}", where=[str(caller())])
        losses = (LossTerm(self._ref(handle, "loss")),)
        self._commit(attrs.evolve(self.graph, losses=losses, epochs=epochs, minibatches=minibatches))

    def add_loss(self, handle: Handle, weight: float) -> None:
        term = LossTerm(self._ref(handle, "loss"), weight)
        self._commit(attrs.evolve(self.graph, losses=(*self.graph.losses, term)))

    def combine(self, symbol: str, left: Handle, right: Handle | float) -> Handle:
        """Arithmetic: of two outputs, or of an output and a number."""
        if isinstance(right, int | float) and not isinstance(right, bool):
            op = arithmetic_op(symbol, {"left": ANY}, left.type)
            return self.add(op, {"left": left}, {"number": float(right)})
        if not isinstance(right, Handle):
            raise RecipeError(f"{left!r} cannot be combined with {right!r}", where=[str(caller())])
        result = joined(left.type, right.type)
        product_of_losses = LOSS in (left.type, right.type) and symbol not in ("add", "sub")
        if result is None or product_of_losses or result.kind in ("agent", "prompts", "rollouts"):
            raise RecipeError(f"{left!r} and {right!r} cannot be combined by {symbol!r}", where=[str(caller())])
        op = arithmetic_op(symbol, {"left": ANY, "right": ANY}, result)
        return self.add(op, {"left": left, "right": right})


def _renamed(graph: Graph, old: str, new: str) -> Graph:
    def moved(ref: Ref) -> Ref:
        return attrs.evolve(ref, node=new) if ref.node == old else ref

    nodes = [
        attrs.evolve(
            node, name=new if node.name == old else node.name, inputs={p: moved(r) for p, r in node.inputs.items()}
        )
        for node in graph.nodes
    ]
    return graph.with_nodes(nodes, losses=tuple(attrs.evolve(loss, ref=moved(loss.ref)) for loss in graph.losses))


def _without_orphans(graph: Graph, candidates: set[str]) -> Graph:
    """Drop model passes that only the replaced node read; inputs and everything with a name in use stay."""
    orphans = {
        name for name in candidates if name in graph and graph[name].op.name in FORWARD_OPS and not graph.readers(name)
    }
    return graph.with_nodes(node for node in graph.nodes if node.name not in orphans)


def make_part(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """A configured part for a node; errors show the recipe's line."""
    try:
        return registry(kind)[name](**options)
    except DovetailError as error:
        error.where = (*error.where, str(caller()))
        raise
