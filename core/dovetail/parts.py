"""Parts: what plugins give, whatever their kind. Fields are options; hook arguments are the data that a part needs."""

from __future__ import annotations

import inspect
import re
import traceback
import typing
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pluggy

from dovetail.errors import DovetailError, OptionError, PartError, did_you_mean
from dovetail.structure import Mistake, read_value

hookimpl = pluggy.HookimplMarker("dovetail")

HOOKS_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "generators": ("generate",),
    "environments": ("tasks", "make"),
    "rewards": ("score",),
    "advantages": ("estimate",),
    "losses": ("loss_terms",),
    "loggers": ("log_metrics",),
    "recipes": (),
    "commands": (),
    "extensions": (),
}
KINDS = tuple(HOOKS_BY_KIND)


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

    def type_name(self) -> str:
        return self.type if isinstance(self.type, str) else getattr(self.type, "__name__", str(self.type))

    def check(self, value: Any) -> Any:
        """Read a value strictly.

        Raises:
            Mistake: It does not fit the option's type.
        """
        return read_value(value, self.type)


@attrs.frozen
class Provenance:
    """Where a part comes from, for errors and for the plugin lock."""

    distribution: str = "this script"
    version: str = ""
    target: str = ""

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"{self.distribution}{version} ({self.target})" if self.target else f"{self.distribution}{version}"


def options_of(target: Any) -> tuple[Option, ...]:
    """The options of a part's class (attrs fields) or function (keyword-only parameters); a recipe knows its own."""
    if isinstance(known := getattr(target, "options", None), tuple):
        return known
    docs = argument_docs(inspect.getdoc(target) or "")
    hints = _type_hints(target.__init__ if inspect.isclass(target) else target)
    if inspect.isclass(target) and attrs.has(target):
        fields = [field for field in attrs.fields(target) if field.init]
        return tuple(
            Option(
                field.alias,
                hints.get(field.alias, field.type),
                _factory_default(field.default),
                docs.get(field.alias, ""),
            )
            for field in fields
        )
    keyword_only = [p for p in _parameters(target) if p.kind is p.KEYWORD_ONLY]
    return tuple(
        Option(
            p.name,
            hints.get(p.name, Any),
            attrs.NOTHING if p.default is p.empty else p.default,
            docs.get(p.name, ""),
        )
        for p in keyword_only
    )


def _factory_default(default: Any) -> Any:
    return default.factory() if isinstance(default, attrs.Factory) and not default.takes_self else default  # type: ignore[arg-type]


def _parameters(target: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return []


def _type_hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except Exception:  # a hint may name what is imported for type checkers alone: the option is then not type-checked
        return {}


def argument_docs(docstring: str) -> dict[str, str]:
    """The ``Args:`` section of a Google-style docstring, name to text."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.S | re.M)
    if not section:
        return {}
    entries = re.findall(r"^ {4}(\w+)(?: \([^)]*\))?: (.*?)(?=^ {4}\w+(?: \([^)]*\))?: |\Z)", section[1], re.S | re.M)
    return {name: " ".join(text.split()) for name, text in entries}


@attrs.define(eq=False, slots=False)
class Part:
    """A configured part and what a run needs to know of it.

    Args:
        kind: One of :data:`KINDS`.
        name: Its name in the registry.
        instance: The object that implements the hook.
        provenance: Its distribution and version.
        weight: Of a reward, in the total.
        label: Its name in metrics, unique in a run.
    """

    kind: str
    name: str
    instance: Any
    provenance: Provenance = attrs.field(factory=Provenance)
    weight: float = 1.0
    label: str = attrs.field(default=attrs.Factory(lambda self: self.name, takes_self=True))

    def has(self, hook: str) -> bool:
        return callable(getattr(self.instance, hook, None))

    def asks_for(self, hook: str) -> tuple[str, ...]:
        """The hook's arguments in the order in which the author wrote them."""
        arguments, _ = pluggy._hooks.varnames(getattr(self.instance, hook))
        return tuple(name for name in arguments if name != "self")

    def is_async(self, hook: str) -> bool:
        return inspect.iscoroutinefunction(getattr(self.instance, hook))

    def needs(self, hook: str) -> tuple[str, ...]:
        """What must be computed: the arguments, without those that these options leave unused.

        A part says so by a method ``ignores()`` that returns argument names; it is then given None for them.
        """
        ignores = getattr(self.instance, "ignores", None)
        ignored = set(ignores()) if callable(ignores) else set()
        return tuple(name for name in self.asks_for(hook) if name not in ignored)

    def call(self, hook: str, available: Mapping[str, Any]) -> Any:
        """Call the hook with the arguments that it asks for.

        Raises:
            PartError: It raised; the message names the part and the line in its code.
        """
        needed = set(self.needs(hook))
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

    def options(self) -> dict[str, Any]:
        """The options as set, for the resolved config and for graph diffs."""
        return {
            option.name: getattr(self.instance, option.name)
            for option in options_of(type(self.instance))
            if hasattr(self.instance, option.name)
        }

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def line_of(error: BaseException) -> str:
    """The innermost line of a traceback outside dovetail and installed libraries, else the innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/dovetail/" not in frame.filename]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"


def function_part(kind: str, function: Callable[..., Any]) -> type:
    """Wrap a function into the shape of a part: keyword-only parameters become options, the others hook arguments."""
    hook = HOOKS_BY_KIND[kind][0]
    options = options_of(function)
    fields = {o.name: attrs.field(default=o.default, type=o.type, kw_only=True) for o in options}
    data = [p.name for p in _parameters(function) if p.kind is not p.KEYWORD_ONLY and p.default is p.empty]
    method = _method_like(function, hook, data, [o.name for o in options])
    base = type("FunctionPart", (), {hook: hookimpl(method), "__module__": function.__module__})
    body = attrs.make_class(function.__name__, fields, frozen=True, bases=(base,))
    body.__doc__ = inspect.getdoc(function)
    vars(body)["__init__"].__annotations__ = {o.name: o.type for o in options}
    return body


def _method_like(function: Callable[..., Any], hook: str, data: list[str], options: list[str]) -> Callable[..., Any]:
    """A method with the function's own parameter names, because pluggy reads them from the code object."""
    call = ", ".join([*(f"{name}={name}" for name in data), *(f"{name}=self.{name}" for name in options)])
    is_async = inspect.iscoroutinefunction(function)
    head, body = ("async def", "return await") if is_async else ("def", "return")
    source = f"{head} {hook}({', '.join(['self', *data])}):\n    {body} function({call})"
    namespace: dict[str, Any] = {"function": function}
    exec(compile(source, f"<{hook} of {function.__name__}>", "exec"), namespace)
    return namespace[hook]  # type: ignore[no-any-return]


def build_part(
    kind: str,
    name: str,
    target: Any,
    options: Mapping[str, Any],
    provenance: Provenance | None = None,
    *,
    weight: float = 1.0,
    label: str | None = None,
) -> Part:
    """Make a part of a class, a function or a ready instance.

    Raises:
        OptionError: An option is unknown, missing, of the wrong type, or refused by the part.
        PartError: The target does not implement the hook of its kind.
    """
    provenance = provenance or Provenance(target=f"{target.__module__}:{getattr(target, '__qualname__', name)}")
    mistakes, checked = check_options(target, options)
    if mistakes:
        lines = "; ".join(text for _, text in mistakes)
        raise OptionError(f"{kind} part {name!r}: {lines}", where=[str(provenance)])
    cls = target if inspect.isclass(target) else function_part(kind, target)
    try:
        instance = cls(**checked)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{kind} part {name!r}: {error.args[0]}", where=[str(provenance)]) from error
    part = Part(kind, name, instance, provenance, weight, label or name)
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
            checked[name] = known[name].check(value)
        except Mistake as mistake:
            mistakes.append((name, f"option {name!r}: {mistake}"))
    for name, option in known.items():
        if option.required and name not in options:
            mistakes.append((name, f"the option {name!r} is required"))
    return mistakes, checked


def check_hooks(part: Part) -> None:
    """Refuse a part that lacks the hook of its kind, or asks for an argument that the hook does not have.

    Raises:
        PartError: With the near miss.
    """
    from dovetail import hookspecs

    specs = {name: getattr(group, name) for group in hookspecs.SPECS for name in vars(group) if name[0] != "_"}
    for hook in HOOKS_BY_KIND[part.kind]:
        if not part.has(hook):
            raise part.error(f"it does not implement the hook {hook!r} of its kind")
    for hook, spec in specs.items():
        if not part.has(hook) or not is_hookimpl(getattr(part.instance, hook)):
            if hook in HOOKS_BY_KIND[part.kind]:
                raise part.error(f"its method {hook!r} is not marked", hint="put @dovetail.hookimpl above it")
            continue
        offered = [name for name in inspect.signature(spec).parameters if name != "self"]
        for name in part.asks_for(hook):
            if name not in offered:
                raise part.error(f"its hook {hook!r} asks for {name!r}; {did_you_mean(name, offered)}")


def is_hookimpl(method: Any) -> bool:
    return getattr(method, "dovetail_impl", None) is not None


class PartManager:
    """The pluggy manager of one run: the parts that it named, in config order."""

    def __init__(self, parts: tuple[Part, ...] | list[Part] = ()) -> None:
        from dovetail import hookspecs

        self._manager = pluggy.PluginManager("dovetail")
        for spec in hookspecs.SPECS:
            self._manager.add_hookspecs(spec)
        self.parts: list[Part] = []
        for part in parts:
            self.add(part)

    def add(self, part: Part) -> None:
        """Register a part. Each is held by identity, because pluggy tells plugins apart by equality."""
        self._manager.register(_Holder(part.instance), name=f"{part.kind}/{part.label}/{len(self.parts)}")
        self.parts.append(part)

    def broadcast(self, hook: str, **arguments: Any) -> None:
        """Call a lifecycle hook of every part, in the order in which they were named."""
        caller = getattr(self._manager.hook, hook)
        for implementation in caller.get_hookimpls():
            implementation.function(*(arguments[name] for name in implementation.argnames))


class _Holder:
    """Gives a part's hooks to pluggy under an identity of its own."""

    def __init__(self, instance: Any) -> None:
        for name in dir(instance):
            member = getattr(instance, name, None)
            if callable(member) and is_hookimpl(member):
                setattr(self, name, member)
