"""The editing face of a graph: handles that look like values, and edits that are checked at once."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from dovetail.errors import DovetailError, RecipeError, did_you_mean
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Op, Ref, caller
from dovetail.graph.ops import FORWARD_OPS, GENERATE_COUNTS, GENERATE_OPTIONS, SAMPLERS, part_op
from dovetail.graph.types import AGENT, ANY, LOSS, PROMPTS, ROLLOUTS, PortType, joined
from dovetail.parts import options_of
from dovetail.registry import registry

_current: contextvars.ContextVar[Editor] = contextvars.ContextVar("editor")


@contextlib.contextmanager
def tracing(editor: Editor) -> Iterator[None]:
    """Let the words of a recipe edit this editor's graph. Their errors show the user's line."""
    token = _current.set(editor)
    try:
        yield
    except DovetailError as error:
        line = caller(error)
        if line and not any(line in place for place in error.where):
            error.where = (line, *error.where)
        raise
    finally:
        _current.reset(token)


def current_editor(word: str) -> Editor:
    """The editor of the recipe that is being traced, where ``word`` belongs."""
    try:
        return _current.get()
    except LookupError:
        hint = "call it inside a function under @dt.recipe or @dt.algorithm"
        what = f"{word!r} is a word of recipes, and no recipe is being traced"
        raise RecipeError(what, where=[caller()], hint=hint) from None


def _arithmetic(symbol: str) -> Callable[[Handle, Any], Handle]:
    def combine(left: Handle, right: Handle | float) -> Handle:
        inputs, options, result = {"left": left}, {}, None
        if isinstance(right, Handle):
            inputs["right"] = right
            result = joined(left.type, right.type)
        elif isinstance(right, int | float) and not isinstance(right, bool):
            options["number"] = float(right)
            result = left.type
        product_of_losses = result == LOSS and "right" in inputs and symbol not in ("add", "sub")
        if result is None or result in (AGENT, PROMPTS, ROLLOUTS) or product_of_losses:
            raise RecipeError(f"{left!r} and {right!r} cannot be combined by {symbol!r}")
        return add_node(Op(symbol, dict.fromkeys(inputs, ANY), {"out": result}), inputs, None, options)

    return combine


@attrs.frozen(eq=False, repr=False)
class Handle:
    """An output of a node, as a recipe sees it. Arithmetic with handles and numbers makes nodes."""

    _editor: Editor
    _ref: Ref

    @property
    def name(self) -> str:
        return self._ref.node

    @property
    def type(self) -> PortType:
        graph = self._editor.graph
        return graph.input_types().get(self.name) or graph.type_of(self._ref)

    def __getattr__(self, port: str) -> Handle:
        if port.startswith("__"):
            raise AttributeError(port)
        ref = Ref(self.name, port)
        self._editor.graph.type_of(ref)
        return Handle(self._editor, ref)

    def replace_with(self, other: Handle) -> Handle:
        """Let all readers of this node read ``other``, which takes over its name; what nobody reads any more goes."""
        name, before, new = self.name, self._editor.graph, ref_of(self._editor, other, self.name)
        if name == new.node:
            return other
        made_of_old = before.ancestors([new.node])
        graph = before.redirect(name, new, keep=made_of_old)
        if graph[name].op.name == "input":  # it stays what it is called in the recipe's signature
            self._editor.graph = graph.check()
            return other
        if name in made_of_old:
            graph = _renamed(graph, name, _free_name(graph, f"{name}_before"))
        else:
            graph = graph.without([name])
        graph = _renamed(graph, new.node, name)
        # Model passes that only the replaced node read go with it.
        above = before.ancestors([name]) - {name}
        passes = [node.name for node in graph if node.name in above and node.op.name in FORWARD_OPS]
        self._editor.graph = graph.without([each for each in passes if not graph.readers(each)]).check()
        return self._editor[name]

    __add__ = __radd__ = _arithmetic("add")
    __sub__ = _arithmetic("sub")
    __mul__ = __rmul__ = _arithmetic("mul")
    __truediv__ = _arithmetic("div")
    __rsub__ = _arithmetic("rsub")
    __rtruediv__ = _arithmetic("rdiv")

    def __neg__(self) -> Handle:
        return self * -1.0

    def __bool__(self) -> bool:
        what = f"{self.name!r} has no value while the recipe is traced, so it cannot steer an `if`"
        raise RecipeError(what, hint="branch on an option, or put the logic into an @dt.op")

    def __repr__(self) -> str:
        return f"<{self._ref}: {self.type}>"


@attrs.define(eq=False, repr=False)
class Editor:
    """The controller that recipes and algorithms are given: nodes by name, and a graph underneath, edited in place."""

    graph: Graph = attrs.field(factory=Graph)

    def __getitem__(self, name: str) -> Handle:
        return Handle(self, Ref(name, self.graph[name].output))

    def __getattr__(self, name: str) -> Handle:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def set(self, name: str, *, use: str | None = None, **options: Any) -> Handle:
        """Change options of a node, or of its part. With ``use`` another part of its kind takes the place.

        The wires, and the options that both parts have, then stay as they are; one that was set and that the new part
        does not have is a RecipeError.
        """
        node = self.graph[name]
        op, part = node.op, node.op.part
        known = list(GENERATE_OPTIONS if op.name in SAMPLERS else node.settings())
        if part is not None and use is not None:
            before = {o.name: (part.options().get(o.name), o.default) for o in options_of(part.target)}
            known = [*node.options, *(option.name for option in options_of(registry(part.kind).target(use)[0]))]
            options = {key: was for key, (was, default) in before.items() if key in known or was != default} | options
        for key in options:
            if key not in known:
                what = f"{use or node} has no option {key!r}"
                raise RecipeError(what, where=node.where("made"), hint=did_you_mean(key, known))
        if op.name in SAMPLERS:
            check_counts(**{key: value for key, value in options.items() if key in GENERATE_COUNTS})
        own = {key: value for key, value in options.items() if part is None or key in node.options}
        if part is not None:
            inner = {**({} if use else part.options()), **options, "process": part.process}
            factory = registry(part.kind)[use or part.name]
            op = part_op(factory(**{key: value for key, value in inner.items() if key not in own}))
        inputs = {port: ref for port, ref in node.inputs.items() if port in op.inputs}
        self.graph = self.graph.put(attrs.evolve(node, op=op, inputs=inputs, options={**node.options, **own})).check()
        return self[name]

    def drop(self, name: str) -> None:
        """Remove a node that nobody reads."""
        node = self.graph[name]
        readers = [reader for reader, _, _ in self.graph.readers(name)]
        if readers or any(loss.ref.node == name for loss in self.graph.losses):
            by, where = (readers[0].name, readers[0].where("read")) if readers else ("the loss", node.where("made"))
            hint = "replace it, or wire its readers anew"
            raise RecipeError(f"{name!r} cannot be dropped: {by!r} reads it", where=where, hint=hint)
        self.graph = self.graph.without([name]).check()

    def wire(self, name: str, **ports: Handle) -> Handle:
        """Connect ports of a node to other outputs."""
        node = self.graph[name]
        refs = {port: ref_of(self, value, port) for port, value in ports.items()}
        self.graph = self.graph.put(attrs.evolve(node, inputs={**node.inputs, **refs}, source=caller())).check()
        return self[name]

    def insert_after(self, name: str, make: Callable[[Handle], Handle]) -> Handle:
        """Let all readers of a node read ``make(node)`` instead."""
        before = self.graph
        new = make(self[name])
        added = self.graph.by_name.keys() - before.by_name.keys()
        self.graph = self.graph.redirect(name, ref_of(self, new, name), keep=added).check()
        return new

    def insert_before(self, name: str, port: str, make: Callable[[Handle], Handle]) -> Handle:
        """Let ``port`` of a node read ``make(what it read)`` instead."""
        node = self.graph[name]
        if port not in node.inputs:
            raise RecipeError(f"{node} reads nothing at port {port!r}", hint=did_you_mean(port, node.inputs))
        new = make(Handle(self, node.inputs[port]))
        self.wire(name, **{port: new})
        return new


def add_node(op: Op, inputs: Mapping[str, Any], name: str | None, options: Mapping[str, Any] | None = None) -> Handle:
    """Append a node that reads handles to the recipe that is being traced."""
    editor = current_editor(op.label)
    wanted = op.part.name.replace("-", "_") + "_" + op.name if op.part else op.label
    refs = {port: ref_of(editor, value, port) for port, value in inputs.items()}
    node = Node(name or _free_name(editor.graph, wanted), op, refs, dict(options or {}), caller())
    editor.graph = editor.graph.add(node).check()
    return editor[node.name]


def ref_of(editor: Editor, value: Any, port: str) -> Ref:
    """What ``port`` reads when it is given ``value``, which must be an output of this editor's graph."""
    if not isinstance(value, Handle):
        hint = "pass what another dt.… call returned, or an input of the recipe"
        raise RecipeError(f"port {port!r} needs a node, got {type(value).__name__} {value!r}", hint=hint)
    if value._editor is not editor:
        raise RecipeError(f"{value!r} belongs to another recipe")
    return value._ref


def check_counts(**counts: Any) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise RecipeError(f"{name} must be a whole number from 1, got {count!r}")


def _free_name(graph: Graph, wanted: str) -> str:
    numbered = (f"{wanted}_{count}" for count in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in graph)


def _renamed(graph: Graph, old: str, new: str) -> Graph:
    copy = attrs.evolve(graph[old], name=new)
    both = graph.with_nodes(each for node in graph for each in ([node, copy] if node.name == old else [node]))
    return both.redirect(old, Ref(new, copy.output)).without([old])
