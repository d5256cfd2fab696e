"""Recipes and algorithms: functions that are traced into graphs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dovetail.errors import DovetailError, OptionError, RecipeError, did_you_mean
from dovetail.graph.complete import complete
from dovetail.graph.edit import Editor
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Source
from dovetail.graph.ops import INPUT
from dovetail.parts import Option, check_options, options_of


@attrs.frozen(eq=False)
class Recipe:
    """An algorithm as a function that builds a graph. Calling it with options gives the same recipe, so configured.

    Args:
        name: As users write it.
        function: What is traced.
        base: The recipe that this one edits, for ``@dt.algorithm``.
        bound: Options set so far.
    """

    name: str
    function: Callable[..., None]
    base: Recipe | None = None
    bound: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return inspect.getdoc(self.function) or ""

    @property
    def source(self) -> Source:
        code = self.function.__code__
        return Source(code.co_filename, code.co_firstlineno + 1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Agents, prompts and data, by name."""
        parameters = inspect.signature(self.function).parameters.values()
        own = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return (*self.base.inputs, *own[1:]) if self.base else tuple(own)

    @property
    def options(self) -> tuple[Option, ...]:
        """Its own options, then those of its base."""
        own = options_of(self.function)
        names = {option.name for option in own}
        return (*own, *(o for o in self.base.options if o.name not in names)) if self.base else own

    def __call__(self, **options: Any) -> Recipe:
        """Set options.

        Raises:
            OptionError: One is unknown or of the wrong type.
        """
        known = {option.name: option for option in self.options}
        for name in options:
            if name not in known:
                raise OptionError(f"recipe {self.name!r} has no option {name!r}", hint=did_you_mean(name, known))
        if self.base is None:
            self._check(options)
        else:
            own = {option.name for option in options_of(self.function)}
            self._check({name: value for name, value in options.items() if name in own})
            self.base(**{name: value for name, value in options.items() if name not in own})
        return attrs.evolve(self, bound={**self.bound, **options})

    def _check(self, options: Mapping[str, Any]) -> None:
        mistakes = [text for name, text in check_options(self.function, options)[0] if name in options]
        if mistakes:
            raise OptionError(f"recipe {self.name!r}: {'; '.join(mistakes)}", where=[str(self.source)])

    def settings(self) -> dict[str, Any]:
        """Every option with its value."""
        return {option.name: self.bound.get(option.name, option.default) for option in self.options}

    def trace(self) -> Graph:
        """Build the graph. Nothing runs.

        Raises:
            RecipeError: A mistake in the recipe, with the user's lines.
        """
        graph = self._trace({})
        if not graph.losses:
            raise RecipeError(
                f"recipe {self.name!r} has no loss",
                where=[str(self.source)],
                hint="end it with dt.set_loss(dt.loss(…))",
            )
        self._refuse_unused_inputs(graph)
        complete(graph)
        return graph

    def _trace(self, outer: Mapping[str, Any]) -> Graph:
        settings = {**self.bound, **outer}
        names = {option.name for option in options_of(self.function)}
        own = {name: value for name, value in settings.items() if name in names}
        if self.base is None:
            editor = Editor()
            arguments: list[Any] = []
        else:
            rest = {name: value for name, value in settings.items() if name not in names}
            editor = Editor(self.base._trace(rest))
            arguments = [editor]
        known = set(self.base.inputs) if self.base else set()
        for name in self.inputs:
            if name not in known:
                editor.graph = editor.graph.add(Node(name, INPUT, source=self.source))
                arguments.append(editor.handle(name))
        with editor.tracing():
            self.function(*arguments, **own)
        return editor.graph.check()

    def _refuse_unused_inputs(self, graph: Graph) -> None:
        for node in graph.inputs():
            if not graph.readers(node.name):
                raise RecipeError(
                    f"recipe {self.name!r} never uses its input {node.name!r}",
                    where=[str(self.source)],
                    hint="use it or remove the parameter",
                )

    def __repr__(self) -> str:
        return f"<recipe {self.name}({', '.join(self.inputs)})>"


def recipe(function: Callable[..., None]) -> Recipe:
    """Make a recipe of a function: positional parameters are inputs, keyword-only ones options with defaults."""
    _refuse_options_without_default(function)
    return Recipe(function.__name__, function)


def algorithm(*, using: Recipe) -> Callable[[Callable[..., None]], Recipe]:
    """Make a recipe that edits another: its first parameter is the graph, further ones become new inputs.

    Args:
        using: The recipe to start from; it may itself be such an algorithm.
    """
    if not isinstance(using, Recipe):
        raise RecipeError(f"using= must be a recipe, got {type(using).__name__}")

    def decorate(function: Callable[..., None]) -> Recipe:
        _refuse_options_without_default(function)
        return Recipe(function.__name__, function, base=using)

    return decorate


def _refuse_options_without_default(function: Callable[..., None]) -> None:
    missing = [option.name for option in options_of(function) if option.required]
    if missing:
        raise RecipeError(f"recipe {function.__name__!r}: the option {missing[0]!r} needs a default")


def as_recipe(value: Any) -> Recipe:
    """A recipe given as such or by name.

    Raises:
        DovetailError: It is neither.
    """
    if isinstance(value, str):
        from dovetail.registry import registry

        value = registry("recipes")[value]
    if not isinstance(value, Recipe):
        raise DovetailError(f"a recipe was expected, got {type(value).__name__}", hint="decorate it with @dt.recipe")
    return value
