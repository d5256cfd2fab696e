"""What every tool promises, whoever wrote it."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

from dovetail.messages import ToolSpec
from dovetail_testing.check import Check

_ODD_TEXTS = ("", " ", "\0", "\ud800", "a" * 100_000, "../../etc/passwd", "ü\u202e😀", "{" * 5000, "'; --", "%s%n")
_OTHERS: Mapping[str, Any] = {"string": 7, "integer": "x", "number": "x", "boolean": "x", "array": 7, "object": 7}


class Outcome(Protocol):
    """What a call gives."""

    text: str
    ok: bool


class Tool(Protocol):
    """``dovetail_tools.tool.tool(function)`` makes one."""

    @property
    def spec(self) -> ToolSpec: ...

    def call(self, arguments: str) -> Awaitable[Outcome]: ...


def tool_checks(tool: Tool, *, example: Mapping[str, Any]) -> list[Check]:
    """The checks of a tool.

    Args:
        tool: To be checked.
        example: Arguments that it must take; the others are made from them.
    """
    promises: dict[str, Callable[[Tool, Mapping[str, Any]], None]] = {
        "the policy is told what it does, and what each argument is": _is_described,
        "its schema is one of an object, and JSON": _has_schema,
        "the example is answered": _answers,
        "an argument too many, too few or of another type is told": _tells_mistakes,
        "arguments that are no JSON are told": _tells_broken_arguments,
        "no text as an argument makes it raise": _bears_any_text,
        "32 calls at a time come back": _is_concurrent,
    }
    return [Check(claim, functools.partial(check, tool, example)) for claim, check in promises.items()]


def _called(tool: Tool, *arguments: str) -> list[Outcome]:
    async def all_of_them() -> list[Outcome]:
        return list(await asyncio.gather(*(tool.call(each) for each in arguments)))

    outcomes = asyncio.run(all_of_them())
    for outcome in outcomes:
        outcome.text.encode()  # or no tokenizer takes it
    return outcomes


def _is_described(tool: Tool, _: Mapping[str, Any]) -> None:
    assert tool.spec.description, "it has no docstring"
    bare = [name for name, schema in _properties(tool).items() if not schema.get("description")]
    assert not bare, f"these arguments are missing in the docstring's Args: {bare}"


def _properties(tool: Tool) -> Mapping[str, Any]:
    return dict(tool.spec.parameters.get("properties", {}))


def _has_schema(tool: Tool, _: Mapping[str, Any]) -> None:
    schema = tool.spec.parameters
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema.get("type") == "object", "the schema must be one of an object"
    unknown = set(schema.get("required", ())) - set(_properties(tool))
    assert not unknown, f"required, but not described: {sorted(unknown)}"


def _answers(tool: Tool, example: Mapping[str, Any]) -> None:
    (outcome,) = _called(tool, json.dumps(example))
    assert outcome.ok, f"the example is refused: {outcome.text}"


def _tells_mistakes(tool: Tool, example: Mapping[str, Any]) -> None:
    for wrong in _mistaken(tool, example):
        (outcome,) = _called(tool, json.dumps(wrong))
        assert not outcome.ok, f"{wrong} is taken"
        assert outcome.text, f"{wrong} is refused without a word"


def _mistaken(tool: Tool, example: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield {**example, "no_such_argument": 1}
    for name in tool.spec.parameters.get("required", ()):
        yield {key: value for key, value in example.items() if key != name}
    for name, schema in _properties(tool).items():
        if schema.get("type") in _OTHERS:
            yield {**example, name: _OTHERS[schema["type"]]}


def _tells_broken_arguments(tool: Tool, _: Mapping[str, Any]) -> None:
    for outcome in _called(tool, "{", "[" * 5000, '{"a": '):
        assert not outcome.ok, "arguments that are no JSON are taken"


def _bears_any_text(tool: Tool, example: Mapping[str, Any]) -> None:
    for name, schema in _properties(tool).items():
        if schema.get("type") == "string" and "enum" not in schema:
            _called(tool, *(json.dumps({**example, name: text}) for text in _ODD_TEXTS))


def _is_concurrent(tool: Tool, example: Mapping[str, Any]) -> None:
    outcomes = _called(tool, *[json.dumps(example)] * 32)
    assert all(outcome.ok for outcome in outcomes), "calls at a time are refused that are answered one by one"
