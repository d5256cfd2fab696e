"""A tool: a typed Python function, its JSON schema, and a call that comes back whatever the function does."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dovetail import ToolSpec
from dovetail.parts import argument_docs
from dovetail.structure import Mistake, read_value
from dovetail_episodes.threads import DaemonThreads
from dovetail_tools.schema import is_json, schema_of


class ToolError(Exception):
    """What a tool raises to tell the policy what it did wrong; its text is all that the policy sees."""


class ToolBroken(RuntimeError):
    """What a tool raises if it cannot work for reasons that are not the policy's: the sample is invalid, never 0."""


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
        timeout: Seconds for a call; None for a function that keeps a deadline of its own.
        longest: Characters of a result; what is more is cut off, and the policy is told.
        hints: Types of the parameters; None passes on whatever is given, to a function that judges for itself.
    """

    function: Callable[..., Any]
    spec: ToolSpec
    timeout: float | None = 10.0
    longest: int = 4096
    hints: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    async def call(self, arguments: str) -> Outcome:
        """Call it with raw JSON. Whatever goes wrong becomes the outcome's text.

        Only two things raise: being cancelled, and a ToolBroken.
        """
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
        except ToolBroken:
            raise
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
        names = self.spec.parameters.get("properties", {})
        if not isinstance(given, dict):
            given = dict(zip(names, [given], strict=False))  # a bare value is the first parameter
        if self.hints is None:
            return given
        unknown = [name for name in given if name not in names]
        missing = [name for name in self.spec.parameters.get("required", ()) if name not in given]
        if unknown or missing:
            problem = f"unknown argument {unknown[0]!r}" if unknown else f"the argument {missing[0]!r} is missing"
            raise ToolError(f"{problem}; {self.name} takes {', '.join(names) or 'none'}")
        try:
            return {name: read_value(value, self.hints.get(name, Any)) for name, value in given.items()}
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


def tool(
    function: Callable[..., Any], *, name: str | None = None, timeout: float | None = 10.0, longest: int = 4096
) -> Tool:
    """Make a tool of a function: type hints give the schema, the docstring its words.

    Args:
        function: A function or method, sync or async, a ``functools.partial``, or an object that can be called.
        name: What the policy calls it; by default the function's name.
        timeout: As of :class:`Tool`.
        longest: As of :class:`Tool`.

    Raises:
        TypeError: A parameter has no type, or one that JSON cannot hold.
    """
    if not callable(function):
        raise TypeError(f"{function!r} is no function")
    source = _written(function)
    doc = inspect.getdoc(source) or ""
    label = name or (type(function).__name__ if source.__name__ == "__call__" else source.__name__)
    about, properties, required = argument_docs(doc), {}, []
    signature = inspect.signature(function)
    hints = typing.get_type_hints(source, include_extras=True)
    for key, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {label!r}: the parameter {key!r} cannot be given by name")
        if key not in hints:
            raise TypeError(f"tool {label!r}: the parameter {key!r} needs a type hint")
        properties[key] = schema_of(hints[key], f"tool {label!r}: the parameter {key!r}")
        if key in about:
            properties[key]["description"] = about[key]
        if parameter.default is parameter.empty:
            required.append(key)
        elif is_json(parameter.default):
            properties[key]["default"] = parameter.default
    schema = {"type": "object", "properties": properties, "required": required}
    summary = doc.partition("\n\n")[0].replace("\n", " ").strip()
    return Tool(_callable(function), ToolSpec(label, summary, schema), timeout, longest, hints)


def _callable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself; of an object that can be called its method, which says whether it is async."""
    return function if inspect.isroutine(function) or isinstance(function, functools.partial) else function.__call__


def _written(function: Callable[..., Any]) -> Any:
    """Where name, hints and words of a function stand."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(_callable(function))
