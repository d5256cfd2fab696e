"""Parts: what plugins give, whatever their kind. Fields are options; hook arguments are the data that a part needs."""

from __future__ import annotations

import inspect
import re
import traceback
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import pluggy

from dovetail.errors import DovetailError, OptionError, PartError, did_you_mean
from dovetail.hookspecs import SPECS
from dovetail.structure import Mistake, read_value

hookimpl = pluggy.HookimplMarker("dovetail")

HOOKS_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "generators": ("generate",),
    "environments": ("tasks", "make"),
    "rewards": ("score",),
    "weights": ("weigh",),
    "advantages": ("estimate",),
    "losses": ("loss_terms",),
    "loggers": ("log_metrics",),
    "recipes": (),
    "commands": (),
    "extensions": (),
}
KINDS = tuple(HOOKS_BY_KIND)
_SPECS = {name: spec for group in SPECS for name, spec in vars(group).items() if not name.startswith("_")}


@attrs.frozen
class Option:
    """One option of a part: a field of its class, or a keyword-only parameter of its function."""

    name: str
    type: Any
    default: Any
    doc: str = ""

    @property
    def required(self) -> bool:
        return self.default is attrs.NOTHING


def options_of(target: Any) -> tuple[Option, ...]:
    """The options of a part's class (attrs fields) or function (keyword-only parameters); a recipe knows its own."""
    if isinstance(known := getattr(target, "options", None), tuple):
        return known
    lineage = inspect.getmro(target)[::-1] if inspect.isclass(target) else (target,)
    docs = {name: text for each in lineage for name, text in argument_docs(inspect.getdoc(each) or "").items()}
    hints = _type_hints(target.__init__) | _type_hints(target)
    if attrs.has(target):
        fields = [field for field in attrs.fields(target) if field.init]
        declared = [(f.alias, hints.get(f.name, hints.get(f.alias, f.type)), f.default) for f in fields]
    else:
        keyword_only = [p for p in _parameters(target) if p.kind is p.KEYWORD_ONLY]
        declared = [(p.name, hints.get(p.name, Any), p.default) for p in keyword_only]
    return tuple(Option(name, kind, _value(default), docs.get(name, "")) for name, kind, default in declared)


def _type_hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except Exception:  # a hint may name what is imported for type checkers alone: the option is then not type-checked
        return {}


def _value(default: Any) -> Any:
    if isinstance(default, attrs.Factory) and not default.takes_self:  # type: ignore[arg-type]
        return default.factory()
    return attrs.NOTHING if default is inspect.Parameter.empty else default


def _parameters(target: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # of a built-in
        return []


def argument_docs(docstring: str) -> dict[str, str]:
    """The ``Args:`` section of a Google-style docstring, name to text."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.S | re.M)
    name = r"^ {4}(\w+)(?: \([^)]*\))?: "
    entries = re.findall(rf"{name}(.*?)(?={name}|\Z)", section[1], re.S | re.M) if section else []
    return {entry[0]: " ".join(entry[1].split()) for entry in entries}


@attrs.frozen
class Provenance:
    """Where a part comes from, for errors and for the plugin lock."""

    distribution: str = "this script"
    version: str = ""
    target: str = ""

    @classmethod
    def of_script(cls, target: Any) -> Provenance:
        return cls(target=f"{target.__module__}:{getattr(target, '__qualname__', type(target).__name__)}")

    @property
    def release(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    def __str__(self) -> str:
        return f"{self.release} ({self.target})" if self.target else self.release


@attrs.define(eq=False, slots=False)
class Part:
    """A configured part and what a run needs to know of it."""

    kind: str  #: one of :data:`KINDS`
    name: str  #: in the registry
    instance: Any  #: what implements the hook
    provenance: Provenance = attrs.field(factory=Provenance)
    weight: float | Part = 1.0  #: of a reward in the total: a number, or a part of kind weights
    label: str = attrs.field(default=attrs.Factory(lambda self: self.name, takes_self=True))  #: in metrics, unique
    process: bool | None = None  #: of a reward: whether a process of its own scores; None: as :attr:`in_process` says

    @property
    def in_process(self) -> bool:
        """Whether a worker process scores: as the user says, else if the reward's ``traits`` hold ``cpu_heavy``."""
        return "cpu_heavy" in getattr(self.instance, "traits", ()) if self.process is None else self.process

    def has(self, hook: str) -> bool:
        return callable(getattr(self.instance, hook, None))

    def implements(self, hook: str) -> bool:
        """True if it has the hook and is marked as dovetail's."""
        return self.has(hook) and hasattr(getattr(self.instance, hook), "dovetail_impl")

    def asks_for(self, hook: str) -> tuple[str, ...]:
        """The hook's arguments in the order in which the author wrote them."""
        parameters = _parameters(getattr(self.instance, hook))
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty)

    def is_async(self, hook: str) -> bool:
        return inspect.iscoroutinefunction(getattr(self.instance, hook))

    def needs(self, hook: str) -> tuple[str, ...]:
        """What must be computed: the arguments, without those that these options leave unused.

        A part says so by a method ``ignores()`` that returns argument names; it is then given None for them.
        """
        ignored = self.instance.ignores() if self.has("ignores") else ()
        return tuple(name for name in self.asks_for(hook) if name not in ignored)

    def call(self, hook: str, available: Mapping[str, Any]) -> Any:
        """Call the hook with what it asks for. What it raises becomes a PartError that names the line in its code."""
        needed = self.needs(hook)
        arguments = {name: available[name] if name in needed else None for name in self.asks_for(hook)}
        try:
            return getattr(self.instance, hook)(**arguments)
        except DovetailError:
            raise
        except Exception as error:
            raise self.error(f"{type(error).__name__}: {error}", place=line_of(error)) from error

    def error(self, problem: str, *, place: str = "", hint: str = "") -> PartError:
        """An error that names this part, its distribution and version."""
        where = [str(self.provenance), *([place] if place else [])]
        return PartError(f"{self.kind} part {self.name!r}: {problem}", where=where, hint=hint)

    @property
    def target(self) -> Any:
        """The class or function that it was made of, which declares its options."""
        return getattr(self.instance, "__wrapped__", type(self.instance))

    def options(self) -> dict[str, Any]:
        """The options as set, for the resolved config and for graph diffs."""
        names = [option.name for option in options_of(self.target)]
        return {name: getattr(self.instance, name) for name in names if hasattr(self.instance, name)}

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def line_of(error: BaseException) -> str:
    """The innermost line of a traceback outside dovetail and installed libraries, else the innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/dovetail/" not in frame.filename]
    return next((f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(own or frames)), "")


class FunctionPart:
    """A function in the shape of a part: keyword-only parameters are its options, the others hook arguments."""

    def __init__(self, kind: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        vars(self).update({option.name: option.default for option in options_of(function)}, **options)
        self.__wrapped__ = function
        setattr(self, HOOKS_BY_KIND[kind][0], hookimpl(partial(function, **options)))


def build_part(
    kind: str, name: str, target: Any, options: Mapping[str, Any], provenance: Provenance | None = None
) -> Part:
    """Make a part of a class or a function. Options that do not fit are an OptionError, hooks a PartError."""
    provenance = provenance or Provenance.of_script(target)
    mistakes, checked = check_options(target, options)
    if mistakes:
        raise OptionError(f"{kind} part {name!r}: {'; '.join(text for _, text in mistakes)}", where=[str(provenance)])
    try:
        instance = target(**checked) if inspect.isclass(target) else FunctionPart(kind, target, checked)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{kind} part {name!r}: {error.args[0]}", where=[str(provenance)]) from error
    part = Part(kind, name, instance, provenance)
    check_hooks(part)
    return part


def check_options(target: Any, options: Mapping[str, Any]) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """All mistakes in ``options`` as pairs of option name and message, and the values read."""
    known = {option.name: option for option in options_of(target)}
    mistakes: list[tuple[str, str]] = []
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            mistakes.append((name, f"unknown option {name!r}, {did_you_mean(name, known)}"))
            continue
        try:
            checked[name] = read_value(value, known[name].type)
        except Mistake as mistake:
            mistakes.append((name, f"option {name!r}: {mistake}"))
    missing = [name for name, option in known.items() if option.required and name not in options]
    return mistakes + [(name, f"the option {name!r} is required") for name in missing], checked


def check_hooks(part: Part) -> None:
    """Refuse, by a PartError, a part that lacks the hook of its kind, or asks for what the hook does not have."""
    for hook in HOOKS_BY_KIND[part.kind]:
        if not part.has(hook):
            raise part.error(f"it does not implement the hook {hook!r} of its kind")
        if not part.implements(hook):
            raise part.error(f"its method {hook!r} is not marked", hint="put @dovetail.hookimpl above it")
    for hook, spec in _SPECS.items():
        if part.implements(hook):
            offered = [name for name in inspect.signature(spec).parameters if name != "self"]
            for name in part.asks_for(hook):
                if name not in offered:
                    raise part.error(f"its hook {hook!r} asks for {name!r}; {did_you_mean(name, offered)}")
