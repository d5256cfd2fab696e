"""Tool calls in the text of a turn: the formats that models are trained on, and a terse one for tiny models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import attrs

from dovetail.messages import ToolCall

Format = Literal["hermes", "llama", "json", "terse"]

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:json|tool_call)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_TERSE = re.compile(r"\[([^\[\]]*)(\]?)")
_NAMES = ("name", "tool", "function")
_ARGUMENTS = ("arguments", "parameters", "args", "input")


@attrs.frozen
class Parsed:
    """What a turn says: its words, its calls, and what looks like a call and is none."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    problems: tuple[str, ...] = ()


@attrs.frozen
class Malformed:
    """Why a text that looks like a call is none."""

    reason: str


Found = tuple[str, str] | Malformed  # a tool's name and the raw JSON of its arguments


def parse_calls(text: str, format: Format, *, first: int = 0) -> Parsed:
    """Find the tool calls in a turn. Nothing raises: what is malformed is told, so that the policy can be told.

    Args:
        text: What the policy said.
        format: ``hermes``: JSON inside ``<tool_call>`` tags (Hermes, Qwen). ``llama``: the whole turn is a JSON object,
            or several with ``;`` between them (Llama 3). ``json``: a fenced block with an object or a list.
            ``terse``: ``[name argument]``, or ``[argument]`` where there is one tool only.
        first: Number of the first call, for its id.
    """
    rest, found = _PARSERS[format](text)
    calls = [each for each in found if not isinstance(each, Malformed)]
    return Parsed(
        rest.strip(),
        tuple(ToolCall(f"call_{first + place}", name, arguments) for place, (name, arguments) in enumerate(calls)),
        tuple(each.reason for each in found if isinstance(each, Malformed)),
    )


def _hermes(text: str) -> tuple[str, list[Found]]:
    found: list[Found] = []
    for match in _HERMES.finditer(text):
        closed = match[0].endswith("</tool_call>")
        found += [Malformed("a <tool_call> is not closed")] if not closed else _read_json(match[1])
    return _HERMES.sub("", text), found


def _llama(text: str) -> tuple[str, list[Found]]:
    body = text.strip().removeprefix("<|python_tag|>").strip()
    if not body.startswith("{") or not any(f'"{name}"' in body for name in _NAMES):
        return text, []
    decoder, found, place = json.JSONDecoder(), list[Found](), 0
    while place < len(body):
        try:
            value, place = decoder.raw_decode(body, place)
        except (ValueError, RecursionError) as error:
            return "", [*found, Malformed(f"the call is no JSON: {_shown(error)}")]
        found.append(_call(value))
        place += len(body[place:]) - len(body[place:].lstrip("; \n\t"))
    return "", found


def _fenced(text: str) -> tuple[str, list[Found]]:
    found: list[Found] = []
    for match in _FENCED.finditer(text):
        found += _read_json(match[1]) if match[0].endswith("```") else [Malformed("a fenced block is not closed")]
    return _FENCED.sub("", text), found


def _terse(text: str) -> tuple[str, list[Found]]:
    found: list[Found] = []
    for match in _TERSE.finditer(text):
        if not match[2]:
            found.append(Malformed("a [ is not closed"))
            continue
        name, space, argument = match[1].strip().partition(" ")
        is_named = bool(space) and name.isidentifier()
        found.append((name if is_named else "", json.dumps(argument.strip() if is_named else match[1].strip())))
    return _TERSE.sub("", text), found


def _read_json(text: str) -> list[Found]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [Malformed(f"the call is no JSON: {_shown(error)}")]
    return [_call(each) for each in (value if isinstance(value, list) else [value])]


def _call(value: Any) -> Found:
    if not isinstance(value, Mapping):
        return Malformed(f"a call must be an object with name and arguments, got {type(value).__name__}")
    name = next(_values(value, _NAMES), None)
    if isinstance(name, Mapping):  # {"function": {"name": …, "arguments": …}}
        return _call(name)
    if not isinstance(name, str) or not name:
        return Malformed("the call has no name")
    arguments: Any = next(_values(value, _ARGUMENTS), {})
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _values(value: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Any]:
    return (value[name] for name in names if name in value)


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__


_PARSERS: Mapping[str, Callable[[str], tuple[str, list[Found]]]] = {
    "hermes": _hermes,
    "llama": _llama,
    "json": _fenced,
    "terse": _terse,
}
