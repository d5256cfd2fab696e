"""One tool: its schema, and a call that comes back whatever the function does."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, Literal

import pytest
from hypothesis import given, settings, strategies

from dovetail_tools.tool import ToolError, tool


def call(function, arguments="{}", **limits):
    return asyncio.run(tool(function, **limits).call(arguments))


def look(where: str, depth: int = 1, kinds: list[str] | None = None, order: Literal["up", "down"] = "up") -> str:
    """Look
    somewhere.

    Not shown.

    Args:
        where: The place.
    """
    return f"{where} {depth} {kinds} {order}"


def test_type_hints_become_a_schema():
    """The docstring gives the words."""
    spec = tool(look).spec
    assert (spec.name, spec.description) == ("look", "Look somewhere.")
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "where": {"type": "string", "description": "The place."},
            "depth": {"type": "integer"},
            "kinds": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "order": {"enum": ["up", "down"]},
        },
        "required": ["where"],
    }


def test_a_parameter_that_json_cannot_hold_is_refused():
    """When the tool is made, not when it is called."""

    def untyped(x):
        return x

    def typed(x: threading.Event):
        return x

    with pytest.raises(TypeError, match="'x' needs a type hint"):
        tool(untyped)
    with pytest.raises(TypeError, match="JSON cannot hold"):
        tool(typed)


def test_sync_and_async_functions_are_called_alike():
    """A bare value is the first parameter."""

    async def later(where: str) -> str:
        await asyncio.sleep(0)
        return where

    assert call(look, '{"where": "here", "depth": 2}').text == "here 2 None up"
    assert call(later, '"there"').text == "there"


@pytest.mark.parametrize(
    "arguments",
    ['{"where": 1}', '{"where": "a", "depth": 1.5}', '{"where": "a", "order": "left"}', '{"where": "a", "depth": true}',
     "[", "{}", '{"where": "a", "what": 1}', "[]", "null", "[" * 5000],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_told(arguments):
    """The function is not called."""
    outcome = call(look, arguments)
    assert not outcome.ok
    assert outcome.text.startswith("error: ")


def test_a_tool_that_hangs_is_left_behind():
    """In a thread or on the loop."""

    def hangs() -> str:
        threading.Event().wait()

    async def waits() -> str:
        await asyncio.Event().wait()

    for function in (hangs, waits):
        outcome = call(function, timeout=0.05)
        assert (outcome.ok, outcome.text) == (False, "error: no answer within 0.05 s")


def test_a_tool_that_raises_tells_what_and_no_more():
    """Its own timeout is its own error; a ToolError is what it says."""

    def broken() -> str:
        raise KeyError("secret")

    def late() -> str:
        raise TimeoutError("upstream")

    def refuses() -> str:
        raise ToolError("not that one")

    assert call(broken).text == "error: KeyError: 'secret'"
    assert call(late).text == "error: TimeoutError: upstream"
    assert call(refuses).text == "error: not that one"


@pytest.mark.parametrize(
    ("value", "text", "ok"),
    [
        (b"plain", "plain", True),
        (b"\xff\xfe\x00", "error: the result is 3 bytes that are no text", False),
        ({"a": [1, None]}, '{"a": [1, null]}', True),
        (None, "null", True),
        (float("nan"), "nan", True),
        ("\ud800", "?", True),
        ({1, }, "{1}", True),
    ],
)  # fmt: skip
def test_any_result_becomes_text(value, text, ok):
    """Binary that is no text is an error, not a guess."""

    def gives() -> Any:
        return value

    outcome = call(gives)
    assert (outcome.text, outcome.ok) == (text, ok)


def test_a_flood_is_cut_off():
    """And the policy is told how much it did not see."""

    def floods() -> str:
        return "x" * 10_000_000

    outcome = call(floods, longest=100)
    assert outcome.text == "x" * 100 + "… (9999900 characters left out)"


@settings(max_examples=30, deadline=None)
@given(strategies.recursive(strategies.none() | strategies.integers() | strategies.text(), strategies.lists))
def test_whatever_is_returned_can_be_sent(value):
    """Every result is text that UTF-8 can hold."""

    def gives() -> Any:
        return value

    call(gives).text.encode()
    json.dumps(call(gives).text)
