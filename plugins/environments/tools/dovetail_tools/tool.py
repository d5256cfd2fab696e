"""A tool: a typed Python function, its JSON schema, and a call that comes back whatever the function does."""

from __future__ import annotations

import asyncio
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

import attrs

from dovetail import ToolSpec
from dovetail.parts import argument_docs
from dovetail.structure import Mistake, read_value
from dovetail_episodes.threads import DaemonThreads

_PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class ToolError(Exception):
    """What a tool raises to tell the policy what it did wrong; its text is all that the policy sees."""


@attrs.frozen
class Outcome:
    """What came of a call: the text for the policy, and whether the tool did what it was asked."""

    text: str
    ok: bool = True


@attrs.frozen(eq=False)
class Tool:
    """A function that the policy may call.

    Args:
        function: Sync or async. Sync ones run in a thread of their own, so one that hangs holds nobody up.
        spec: What the policy is told of it.
        timeout: Seconds for a call.
        longest: Characters of a result; what is more is cut off, and the policy is told.
    """

    function: Callable[..., Any]
    spec: ToolSpec
    timeout: float = 10.0
    longest: int = 4096
    _hints: Mapping[str, Any] = attrs.field(
        init=False, default=attrs.Factory(lambda self: typing.get_type_hints(self.function), takes_self=True)
    )
    _parameters: Mapping[str, inspect.Parameter] = attrs.field(
        init=False, default=attrs.Factory(lambda self: inspect.signature(self.function).parameters, takes_self=True)
    )

    @property
    def name(self) -> str:
        return self.spec.name

    async def call(self, arguments: str) -> Outcome:
        """Call it with raw JSON. Whatever goes wrong becomes the outcome's text; only being cancelled raises."""
        limit = asyncio.timeout(self.timeout)
        try:
            given = self._read(arguments)
            async with limit:
                return self._outcome(await self._run(given))
        except TimeoutError as error:
            late = limit.expired()
            return self._error(f"no answer within {self.timeout:g} s" if late else f"TimeoutError: {error}")
        except ToolError as error:
            return self._error(str(error))
        except Exception as error:  # a tool is anybody's code; its failure is told to the policy, not to the run
            return self._error(f"{type(error).__name__}: {error}")

    async def _run(self, given: Mapping[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(**given)
        return await asyncio.wrap_future(DaemonThreads().submit(self.function, **given))

    def _read(self, arguments: str) -> dict[str, Any]:
        try:
            given = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ToolError(f"the arguments are no JSON: {error}") from None
        parameters = self._parameters
        if not isinstance(given, dict):
            given = dict(zip(parameters, [given], strict=False))  # a bare value is the first parameter
        unknown = [name for name in given if name not in parameters]
        missing = [name for name, p in parameters.items() if p.default is p.empty and name not in given]
        if unknown or missing:
            problem = f"unknown argument {unknown[0]!r}" if unknown else f"the argument {missing[0]!r} is missing"
            raise ToolError(f"{problem}; {self.name} takes {', '.join(parameters) or 'none'}")
        try:
            return {name: read_value(value, self._hints.get(name, Any)) for name, value in given.items()}
        except Mistake as error:
            raise ToolError(f"an argument does not fit: {error}") from None

    def _outcome(self, value: Any) -> Outcome:
        if isinstance(value, bytes | bytearray):
            try:
                value = bytes(value).decode()
            except UnicodeDecodeError:
                return self._error(f"the result is {len(value)} bytes that are no text")
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                value = str(value)
        return Outcome(self._cut(value))

    def _error(self, problem: str) -> Outcome:
        return Outcome(self._cut(f"error: {problem}"), ok=False)

    def _cut(self, text: str) -> str:
        # Half a surrogate pair cannot be encoded, so no tokenizer takes it.
        kept = text[: self.longest].encode("utf-8", "replace").decode()
        left_out = len(text) - self.longest
        return kept if left_out <= 0 else f"{kept}… ({left_out} characters left out)"


def tool(function: Callable[..., Any], *, name: str | None = None, timeout: float = 10.0, longest: int = 4096) -> Tool:
    """Make a tool of a function: type hints give the schema, the docstring its words.

    Raises:
        TypeError: A parameter has no type, or one that JSON cannot hold.
    """
    doc = inspect.getdoc(function) or ""
    about, hints, properties, required = argument_docs(doc), typing.get_type_hints(function), {}, []
    label = name or function.__name__
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {label!r}: the parameter {key!r} cannot be given by name")
        if key not in hints:
            raise TypeError(f"tool {label!r}: the parameter {key!r} needs a type hint")
        properties[key] = _schema(hints[key], f"tool {label!r}: the parameter {key!r}")
        if key in about:
            properties[key]["description"] = about[key]
        if parameter.default is parameter.empty:
            required.append(key)
    schema = {"type": "object", "properties": properties, "required": required}
    summary = doc.partition("\n\n")[0].replace("\n", " ").strip()
    return Tool(function, ToolSpec(label, summary, schema), timeout, longest)


def _schema(kind: Any, place: str) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _PRIMITIVES:
        return {"type": _PRIMITIVES[kind]}
    if kind is Any:
        return {}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if each is type(None) else _schema(each, place) for each in arguments]}
    if (origin or kind) in (list, tuple):
        return {"type": "array", **({"items": _schema(arguments[0], place)} if arguments else {})}
    if (origin or kind) is dict:
        return {"type": "object"}
    raise TypeError(f"{place} is {kind!r}, which JSON cannot hold; use str, int, float, bool, list, dict or Literal")
