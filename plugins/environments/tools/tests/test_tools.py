"""The environment, turn by turn, and what every environment promises."""

from __future__ import annotations

import asyncio
import functools
import json
import typing

import pytest

import dovetail as dt
from dovetail import Message, StopReason, ToolCall
from dovetail.errors import DataError, OptionError, UserError
from dovetail.testing import part_checks
from dovetail_tools.tool import tool


def solution(task):
    """The turns that solve a task."""
    return [*(f"[{call}]" for call in task.columns["calls"]), task.answer]


@pytest.mark.parametrize(
    "check", part_checks("environments", "tools", options={"call_format": "terse"}, gold=solution), ids=str
)
def test_conformance(check):
    """It keeps what every environment promises."""
    check()


def play(turns, task=None, **options):
    """What the environment says to each turn."""
    part = dt.environments.tools(**options)

    async def go():
        environment = await part.instance.make()
        try:
            results = [await environment.reset(seed=0, task=task or part.call("tasks", {"split": "train"})[0])]
            for turn in turns:
                results.append(await environment.step(Message("assistant", turn)))
            return results
        finally:
            await environment.close()

    return asyncio.run(go())


def question(answer="4", **columns):
    return dt.Task("0", (Message("user", "2+2?"),), answer=answer, columns=columns)


CALLS = {
    "hermes": 'So:\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "2+2"}}\n</tool_call>',
    "llama": '{"name": "calculator", "parameters": {"expression": "2+2"}}',
    "json": 'I compute.\n```json\n{"name": "calculator", "arguments": {"expression": "2+2"}}\n```',
    "terse": "[calculator 2+2]",
}


@pytest.mark.parametrize("call_format", CALLS)
def test_a_call_is_answered_and_an_answer_is_graded(call_format):
    """In each format; the id of the call comes back."""
    _, called, answered = play([CALLS[call_format], "It is 4."], question(), call_format=call_format)
    (message,) = called.messages
    assert (message.role, message.content, message.name) == ("tool", "4", "calculator")
    assert message.tool_call_id == "call_0"
    assert not called.terminated
    assert answered.terminated
    assert (answered.reward, answered.reward_components) == (1.0, {"correct": 1.0})


MISTAKES = [
    ("<tool_call>{'name': 1}</tool_call>", "the call is no JSON"),
    ('<tool_call>{"name": "calculator"', "is not closed"),
    ('<tool_call>{"arguments": {}}</tool_call>', "the call has no name"),
    ("<tool_call>[1]</tool_call>", "must be an object"),
    ('<tool_call>{"name": "calcluator", "arguments": {}}</tool_call>', "did you mean 'calculator'"),
    ('<tool_call>{"name": "calculator", "arguments": {}}</tool_call>', "'expression' is missing"),
    ('<tool_call>{"name": "calculator", "arguments": {"x": 1, "expression": "1"}}</tool_call>', "unknown argument 'x'"),
    ('<tool_call>{"name": "calculator", "arguments": {"expression": 7}}</tool_call>', "does not fit"),
    ('<tool_call>{"name": "calculator", "arguments": "{broken"}</tool_call>', "no JSON"),
    ('<tool_call>{"name": "calculator", "arguments": {"expression": "1/0"}}</tool_call>', "division by zero"),
]


@pytest.mark.parametrize(("said", "told"), MISTAKES)
def test_a_mistake_is_told_and_the_episode_goes_on(said, told):
    """It ends nothing and raises nothing; the right answer still counts."""
    _, called, answered = play([said, "4"], question())
    assert all(message.role == "tool" for message in called.messages)
    assert told in called.messages[0].content
    assert called.messages[0].content.startswith("error: ")
    assert not called.messages[0].meta["ok"]
    assert answered.reward == 1.0


def test_calls_of_one_turn_are_answered_in_their_order():
    """Up to the limit; those beyond it are told so."""
    said = "\n".join(CALLS["hermes"].replace("2+2", f"{n}+0") for n in range(4))
    _, called = play([said], question(), max_calls=3)
    assert [message.content for message in called.messages[:3]] == ["0", "1", "2"]
    assert "this one is more" in called.messages[3].content
    assert [message.tool_call_id for message in called.messages] == [f"call_{n}" for n in range(4)]


def test_a_result_on_the_way_is_rewarded_once():
    """Whatever tool gives it, and only if the task asks for it."""
    task = question(answer="12", steps=("4", "12"))
    turns = ["[2+2]", "[1+3]", "[5+5]", "[4*3]", "12"]
    results = play(turns, task, call_format="terse", step_reward=0.25)
    assert [result.reward for result in results] == [0.0, 0.25, 0.0, 0.0, 0.25, 1.0]


def test_the_last_turn_cuts_an_episode_off():
    """A policy that only calls never gets the reward of an answer."""
    results = play(["[1+1]"] * 3, call_format="terse", max_turns=3)
    assert [result.truncated for result in results] == [False, False, False, True]
    assert results[-1].stop_reason == StopReason.MAX_TURNS


@pytest.mark.parametrize(
    ("said", "final_answer", "reward"),
    [("so 4", "last_number", 1.0), ("so 4", "whole", 0.0), ("4.0", "whole", 1.0), ("4,000 or 4", "last_number", 1.0),
     ("four", "last_number", 0.0), ("8/2", "last_number", 1.0), ("-4", "last_number", 0.0)],
)  # fmt: skip
def test_answers_are_compared_as_numbers(said, final_answer, reward):
    """Exactly; without a number there is no answer."""
    assert play([said], question(), final_answer=final_answer)[-1].reward == reward


def test_tasks_come_from_a_seed_or_from_a_file(tmp_path):
    """Generated ones have the results on the way; a broken line of a file is named."""
    part = dt.environments.tools(levels=["one_step", "two_step"], size=400, digits=1)
    tasks = part.call("tasks", {"split": "train"})
    assert len({task.messages[0].content for task in tasks}) == len(tasks)
    for task in tasks[:50]:
        assert eval(task.messages[0].content) == int(task.answer) == int(task.columns["steps"][-1])
        assert [str(eval(call)) for call in task.columns["calls"]] == list(task.columns["steps"])
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"question": "2+2?", "answer": 4, "files": {"a.txt": "hello"}}) + "\n")
    (task,) = dt.environments.tools(path=str(path), held_out=0.0).call("tasks", {"split": "train"})
    assert task.answer == "4"
    path.write_text('{"question": "2+2?"}\n')
    with pytest.raises(DataError, match=r"tasks.jsonl:1"):
        dt.environments.tools(path=str(path)).call("tasks", {"split": "train"})


def test_tools_are_told_by_the_template_or_in_a_message():
    """With their schema."""

    async def go(**options):
        environment = await dt.environments.tools(tools=["calculator"], **options).instance.make()
        return environment.tools, (await environment.reset(seed=0)).messages

    specs, messages = asyncio.run(go())
    assert specs[0].parameters["properties"]["expression"]["type"] == "string"
    assert specs[0].parameters["required"] == ["expression"]
    assert [message.role for message in messages] == ["user"]
    specs, messages = asyncio.run(go(instructions="system"))
    assert not specs
    assert messages[0].role == "system"
    assert "calculator" in messages[0].content


class Diary:
    """A kit: what was written, for as long as the episode lasts."""

    opened: typing.ClassVar[list[str]] = []

    def __init__(self, first: str = ""):
        self.lines = [first] * bool(first)
        self.is_open = False

    async def open(self, task):
        self.opened.append(task.id)
        self.is_open = True
        return [self.write, tool(self.show, name="read")]

    async def close(self):
        if self.is_open:
            self.opened.pop()
        self.is_open = False

    async def write(self, line: str) -> int:
        """Write a line."""
        self.lines.append(line)
        return len(self.lines)

    def show(self) -> str:
        """All lines."""
        return " ".join(self.lines)


@pytest.mark.parametrize("wanted", [Diary, {"use": Diary, "first": "so"}, functools.partial(Diary, "so")], ids=repr)
def test_a_kit_has_a_state_of_the_episodes_own(wanted):
    """Its class is named, with options or without; its tools are there when it is open, and it is closed at the end."""
    first = "" if wanted is Diary else "so "

    async def go():
        one, two = [await dt.environments.tools(tools=["calculator", wanted]).instance.make() for _ in range(2)]
        for each in (one, two):
            await each.reset(seed=0, task=question())
        assert [spec.name for spec in one.tools] == ["calculator", "write", "read"]
        await one.step(Message("assistant", "", (ToolCall("1", "write", '{"line": "a"}'),)))
        told = [await each.step(Message("assistant", "", (ToolCall("2", "read", ""),))) for each in (one, two)]
        opened = list(Diary.opened)
        for each in (one, two):
            await each.close()
        return [result.messages[0].content for result in told], opened

    assert asyncio.run(go()) == ([f"{first}a", first.strip()], ["0", "0"])
    assert not Diary.opened


def test_a_kit_whose_tools_clash_is_told_and_closed():
    """Though it was open already."""

    async def go():
        environment = await dt.environments.tools(tools=[Diary, Diary]).instance.make()
        try:
            with pytest.raises(UserError, match="two tools are called 'write'"):
                await environment.reset(seed=0)
        finally:
            await environment.close()

    asyncio.run(go())
    assert not Diary.opened


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": ["three_step"]}, OptionError, "no level is called 'three_step'"),
        ({"template": "x"}, OptionError, "template must hold"),
        ({"tools": ["search"]}, OptionError, "needs a corpus"),
        ({"tools": ["calcluator"]}, UserError, "did you mean 'calculator'"),
        ({"tools": ["no_such_module:f"]}, UserError, "cannot be imported"),
        ({"tools": ["calculator", "calculator"]}, UserError, "two tools are called"),
        ({"tools": [{"use": "calculator", "depth": 2}]}, UserError, "'depth'"),
        ({"tools": [{"use": "math:sqrt", "depth": 2}]}, UserError, "takes no options, and was given depth"),
        ({"tools": [{"usee": "math:sqrt"}]}, UserError, "needs `use`"),
        ({"tools": [{"use": "search"}]}, UserError, "needs a corpus"),
        ({"tools": [lambda x: x]}, UserError, "'x' needs a type hint"),
        ({"tools": [object]}, UserError, "is no function"),
        ({"tools": [Diary()]}, UserError, "one kit for all episodes"),
        ({"tools": [{"use": Diary, "colour": "red"}]}, UserError, "unexpected keyword argument 'colour'"),
    ],
)
def test_options_that_do_not_fit_are_told(options, error, message):
    """By the one who made the mistake."""
    with pytest.raises(error, match=message):
        asyncio.run(dt.environments.tools(**options).instance.make())
