"""Recipes and algorithms: functions that are traced into graphs."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dovetail.errors import DovetailError, OptionError, RecipeError
from dovetail.graph.complete import complete
from dovetail.graph.edit import Editor, tracing
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, place
from dovetail.graph.ops import INPUT
from dovetail.parts import Option, check_options, options_of
from dovetail.registry import registry


@attrs.frozen(eq=False)
class Recipe:
    """An algorithm as a function that builds a graph. Calling it with options gives the same recipe, so configured.

    ``base`` is the recipe that an ``@dt.algorithm`` edits; ``bound`` are the options set so far.
    """

    function: Callable[..., None]
    base: Recipe | None = None
    bound: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for option in options_of(self.function):
            if option.required:
                raise RecipeError(f"recipe {self.name!r}: the option {option.name!r} needs a default")

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return inspect.getdoc(self.function) or ""

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def source(self) -> str:
        code = self.function.__code__
        return place(traceback.FrameSummary(code.co_filename, code.co_firstlineno + 1, code.co_name))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Agents, prompts and data, by name."""
        inherited = self.base.inputs if self.base else ()
        return tuple(dict.fromkeys([*inherited, *self._parameters()]))

    def _parameters(self) -> list[str]:
        """What the function is given by position, without the graph that an algorithm edits."""
        parameters = inspect.signature(self.function).parameters.values()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return names[1:] if self.base else names

    @property
    def options(self) -> tuple[Option, ...]:
        """Its own options, then those of its base; what was set is their default."""
        own = options_of(self.function)
        names = {option.name for option in own}
        options = (*own, *(option for option in self.base.options if option.name not in names)) if self.base else own
        return tuple(attrs.evolve(option, default=self.bound.get(option.name, option.default)) for option in options)

    def settings(self) -> dict[str, Any]:
        """Every option with its value."""
        return {option.name: option.default for option in self.options}

    def __call__(self, *, preset: str | None = None, **options: Any) -> Recipe:
        """Set options; an OptionError tells all that are unknown or of the wrong type.

        A preset is a recipe of its own, registered as this one's name, a hyphen, and the preset's.
        """
        if preset is not None:
            return as_recipe(f"{self.name}-{preset}")(**{**self.bound, **options})
        mistakes, _ = check_options(self, options)
        if mistakes:
            raise OptionError(f"recipe {self.name!r}: {'; '.join(text for _, text in mistakes)}", where=[self.source])
        return attrs.evolve(self, bound={**self.bound, **options})

    def trace(self) -> Graph:
        """Build the graph. Nothing runs; a RecipeError tells a mistake with the user's lines."""
        graph, where = self._trace(), [self.source]
        if not graph.losses:
            hint = "end it with dt.set_loss(dt.loss(…))"
            raise RecipeError(f"recipe {self.name!r} has no loss", where=where, hint=hint)
        for node in graph.inputs():
            if not graph.readers(node.name):
                what = f"recipe {self.name!r} never uses its input {node.name!r}"
                raise RecipeError(what, where=where, hint="use it or remove the parameter")
        complete(graph)
        return graph

    def _trace(self) -> Graph:
        own = {option.name for option in options_of(self.function)}
        editor = Editor()
        if self.base:
            base = self.base(**{name: value for name, value in self.bound.items() if name not in own})
            editor.graph = base._trace()
        for name in self.inputs:
            if not self.base or name not in self.base.inputs:
                editor.graph = editor.graph.add(Node(name, INPUT, source=self.source))
        arguments = [*([editor] if self.base else []), *(editor[name] for name in self._parameters())]
        with tracing(editor):
            self.function(*arguments, **{name: value for name, value in self.bound.items() if name in own})
        return editor.graph

    def __repr__(self) -> str:
        return f"<recipe {self.name}({', '.join(self.inputs)})>"


def recipe(function: Callable[..., None]) -> Recipe:
    """Make a recipe of a function: positional parameters are inputs, keyword-only ones options with defaults."""
    return Recipe(function)


def algorithm(*, using: Recipe) -> Callable[[Callable[..., None]], Recipe]:
    """Make a recipe that edits another one: its first parameter is the graph, further ones become new inputs."""
    if not isinstance(using, Recipe):
        raise RecipeError(f"using= must be a recipe, got {type(using).__name__}")
    return functools.partial(Recipe, base=using)


def as_recipe(value: Any) -> Recipe:
    """A recipe given as such or by name."""
    if isinstance(value, str):
        value = registry("recipes")[value]
    if not isinstance(value, Recipe):
        raise DovetailError(f"a recipe was expected, got {type(value).__name__}", hint="decorate it with @dt.recipe")
    return value


def as_graph(value: Graph | Recipe | str) -> Graph:
    return value if isinstance(value, Graph) else as_recipe(value).trace()
