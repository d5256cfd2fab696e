"""One tool: its schema, and a call that comes back whatever the function does."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import json
import threading
import typing
from typing import Annotated, Any, Literal

import attrs
import pytest
from hypothesis import given, settings, strategies

from dovetail.testing import tool_checks
from dovetail_tools.calculator import evaluate
from dovetail_tools.tool import ToolBroken, ToolError, tool


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
            "depth": {"type": "integer", "default": 1},
            "kinds": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
            "order": {"type": "string", "enum": ["up", "down"], "default": "up"},
        },
        "required": ["where"],
    }


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Named(typing.TypedDict):
    name: str


class Place(Named, total=False):
    height: float


@dataclasses.dataclass
class Stop:
    place: Place
    minutes: int = 5


@attrs.frozen
class Trip:
    stops: list[Stop]


STOP = {
    "type": "object",
    "properties": {
        "place": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "height": {"type": "number"}},
            "required": ["name"],
            "additionalProperties": False,
        },
        "minutes": {"type": "integer"},
    },
    "required": ["place"],
    "additionalProperties": False,
}
HINTS = [
    (dict[str, list[int]], {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}}),
    (
        dict[str, dict[str, Any]],
        {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {}}},
    ),
    (dict, {"type": "object"}),
    (list, {"type": "array"}),
    (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
    (
        tuple[int, str],
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
    ),
    (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
    (Literal["a", 1, None], {"enum": ["a", 1, None]}),
    (Literal[True, 1], {"enum": [True, 1]}),
    (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
    (typing.Optional[bool], {"anyOf": [{"type": "boolean"}, {"type": "null"}]}),  # noqa: UP045, people write it
    (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
    (Colour, {"type": "string", "enum": ["red", "blue"]}),
    (Stop, STOP),
    (
        Trip,
        {
            "type": "object",
            "properties": {"stops": {"type": "array", "items": STOP}},
            "required": ["stops"],
            "additionalProperties": False,
        },
    ),
]


@pytest.mark.parametrize(("hint", "schema"), HINTS, ids=lambda value: str(value)[:40])
def test_every_type_that_json_can_hold_has_a_schema(hint, schema):
    """Also inside one another."""

    def takes(value):
        return value

    takes.__annotations__ = {"value": hint}
    assert tool(takes).spec.parameters["properties"]["value"] == schema


def test_nested_values_arrive_as_their_types():
    """And what does not fit is told with its place."""

    async def plan(trip: Trip, colour: Colour, sizes: dict[str, list[int]]) -> str:
        return f"{trip.stops[0].place['name']} {trip.stops[0].minutes} {colour.name} {sizes['a'][0] + 1}"

    given = {"trip": {"stops": [{"place": {"name": "Oslo"}}]}, "colour": "red", "sizes": {"a": [1]}}
    assert call(plan, json.dumps(given)).text == "Oslo 5 RED 2"
    for wrong in ({"colour": "green"}, {"sizes": {"a": ["1"]}}, {"sizes": []}, {"trip": {"stops": [{}]}}, {"trip": []}):
        outcome = call(plan, json.dumps(given | wrong))
        assert not outcome.ok
        assert outcome.text.startswith("error: an argument does not fit")


def test_whatever_can_be_called_can_be_a_tool():
    """Methods, partials, objects, decorated functions; async ones are awaited."""

    class Counter:
        """Not shown."""

        def __init__(self):
            self.count = 0

        async def add(self, by: int = 1) -> int:
            """Add."""
            self.count += by
            return self.count

        async def __call__(self, by: int) -> int:
            """Count."""
            return await self.add(by)

    def traced(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return function(*args, **kwargs)

        return inner

    @traced
    def plain(where: str, times: int = 2) -> str:
        """Repeat."""
        return where * times

    counter = Counter()
    specs = {
        made.name: made.spec for made in map(tool, [counter.add, counter, plain, functools.partial(plain, times=3)])
    }
    assert {name: spec.description for name, spec in specs.items()} == {
        "add": "Add.",
        "Counter": "Count.",
        "plain": "Repeat.",
    }
    assert call(counter.add, "{}").text == "1"
    assert call(counter, '{"by": 2}').text == "3"
    assert call(plain, '"ab"').text == "abab"
    assert call(functools.partial(plain, times=3), '{"where": "a"}').text == "aaa"
    assert call(functools.partial(counter.add, by=4)).text == "7"


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


def test_a_tool_that_is_broken_is_no_fault_of_the_policy():
    """It raises, so that the sample is invalid."""

    async def gone() -> str:
        raise ToolBroken("the server is gone")

    with pytest.raises(ToolBroken):
        call(gone)


def repeat(text: str, times: int = 2) -> str:
    """Repeat a text.

    Args:
        text: Whatever it is.
        times: How often, at most 9.
    """
    return text * min(times, 9)


def compute(expression: str) -> str:
    """Compute.

    Args:
        expression: Of numbers.
    """
    return evaluate(expression)


KITS = [*tool_checks(tool(repeat), example={"text": "a"}), *tool_checks(tool(compute), example={"expression": "1+1"})]


@pytest.mark.parametrize("check", KITS, ids=str)
def test_conformance(check):
    """Two tools that keep what every tool promises."""
    check()


def test_the_kit_finds_what_a_tool_lacks():
    """No words, arguments that are taken whatever they are, calls that only one can make at a time."""
    busy = False

    async def careless(text: str) -> str:
        nonlocal busy
        if busy:
            raise RuntimeError("busy")
        busy = True
        await asyncio.sleep(0)
        busy = False
        return text

    async def takes_all(**given: Any) -> str:
        return await careless(str(given.get("text")))

    made = attrs.evolve(tool(careless), hints=None, function=takes_all)
    failed = []
    for check in tool_checks(made, example={"text": "a"}):
        try:
            check()
        except AssertionError as error:
            failed.append(str(error))
    assert failed[0] == "it has no docstring"
    assert "is taken" in failed[1]
    assert "calls at a time are refused" in failed[2]
    assert len(failed) == 3
