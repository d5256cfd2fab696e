"""What every environment promises."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import attrs

from dovetail.messages import Environment, Message, StepResult, Task, ToolCall
from dovetail.parts import Part

_CANARY = "canary-7c1e44"
_ODD_TEXTS = ("", "\0", "{" * 5000, "<tool_call>" * 50, '{"name": ', "[[[]", "1" * 100_000, "ü\u202e😀", "```json\n```")


def checks(_: Part, *, gold: Callable[[Task], str | Sequence[str]] | None = None) -> dict[str, Callable[[Part], None]]:
    """Claims and functions; ``gold`` writes the answer that must score 1, or the turns that must do so in all."""
    promises: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "it has tasks, the same ones at each call": _has_tasks,
        "the same seed and task give the same episode": _is_deterministic,
        "a step after the end raises": _refuses_late_steps,
        "the answer is nowhere before the end": _hides_answer,
        "what it says survives JSON": _is_json,
        "its tasks survive JSON": _has_plain_tasks,
        "no text of the policy makes it raise": _bears_any_text,
        "a call of a tool is answered under its id, and a wrong one is told": _answers_calls,
        "rewards are finite, and an end is terminated or truncated": _ends_well,
        "32 episodes at a time do not touch each other": _is_concurrent,
        "close may be called twice": _closes_twice,
        "close leaves no process and no file": _leaves_nothing,
    }
    if gold is not None:
        promises["the right answer scores 1, another does not"] = functools.partial(_grades, gold=gold)
    return {claim: functools.partial(_run, check) for claim, check in promises.items()}


def _run(check: Callable[[Part], Coroutine[Any, Any, None]], part: Part) -> None:
    asyncio.run(check(part))


def some_tasks(part: Part, count: int = 8, split: str = "train") -> list[Task]:
    return list(itertools.islice(part.call("tasks", {"split": split}), count))


async def episode(part: Part, task: Task, text: str | Sequence[str], seed: int = 0) -> list[StepResult]:
    """What a new environment says from its reset to the end of the episode: see :func:`play`."""
    environment: Environment = await part.instance.make()
    results = await play(environment, task, text, seed)
    await environment.close()
    return results


async def play(environment: Environment, task: Task, text: str | Sequence[str], seed: int = 0) -> list[StepResult]:
    """An episode in a given environment, which hears one text after the other, the last one again and again.

    At most 40 turns.
    """
    texts = [text] if isinstance(text, str) else list(text)
    results = [await environment.reset(seed=seed, task=task)]
    while not has_ended(results[-1]) and len(results) <= 40:
        said = texts[min(len(results), len(texts)) - 1]
        results.append(await environment.step(_turn(environment, results[-1], said)))
    return results


def _turn(environment: Environment, before: StepResult, text: str) -> Message:
    """The next agent's turn, under its name where there are several."""
    return Message("assistant", text, name=before.next_agent if len(environment.agents) > 1 else None)


def has_ended(result: StepResult) -> bool:
    return result.terminated or result.truncated


async def _has_tasks(part: Part) -> None:
    first, second = some_tasks(part), some_tasks(part)
    assert first, "the train split is empty"
    assert first == second
    train, test = ({repr(task.messages) for task in some_tasks(part, 200, split)} for split in ("train", "test"))
    assert not train & test, "a task is in both splits"


async def _is_deterministic(part: Part) -> None:
    for task in some_tasks(part, 3):
        assert await episode(part, task, "1", seed=3) == await episode(part, task, "1", seed=3)


async def _refuses_late_steps(part: Part) -> None:
    environment: Environment = await part.instance.make()
    results = await play(environment, some_tasks(part, 1)[0], "1")
    assert has_ended(results[-1]), "no end after 40 turns"
    try:
        await environment.step(Message("assistant", "1"))
    except RuntimeError:
        return
    finally:
        await environment.close()
    raise AssertionError("a step after the end went through")


async def _hides_answer(part: Part) -> None:
    task = attrs.evolve(some_tasks(part, 1)[0], answer=_CANARY)
    *before, last = await episode(part, task, "something else")
    assert _CANARY not in repr(before), "the answer leaks"
    assert _CANARY not in repr(last.info), "the answer leaks through info"


async def _is_json(part: Part) -> None:
    for result in await episode(part, some_tasks(part, 1)[0], "1"):
        plain = attrs.asdict(result)
        assert json.loads(json.dumps(plain, allow_nan=False)) == _listed(plain)


async def _has_plain_tasks(part: Part) -> None:
    for task in some_tasks(part):
        facts = [task.answer, dict(task.columns)]
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts, f"{facts} changes on its way to another machine"


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has them; nothing else may change."""
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


async def _bears_any_text(part: Part) -> None:
    for text in _ODD_TEXTS:
        assert len(await episode(part, some_tasks(part, 1)[0], text)) > 1


async def _answers_calls(part: Part) -> None:
    environment: Environment = await part.instance.make()
    before = await environment.reset(seed=0, task=some_tasks(part, 1)[0])
    for name in [*(tool.name for tool in environment.tools), "no_such_tool"] if environment.tools else ():
        if has_ended(before):
            break
        call = attrs.evolve(_turn(environment, before, ""), tool_calls=(ToolCall("id-7", name, '{"no": "such"}'),))
        before = await environment.step(call)
        answers = [message for message in before.messages if message.role == "tool"]
        assert [message.tool_call_id for message in answers] == ["id-7"], f"the call of {name} is not answered"
    await environment.close()


async def _ends_well(part: Part) -> None:
    for task in some_tasks(part, 3):
        for result in await episode(part, task, "1"):
            assert all(map(math.isfinite, (result.reward, *result.reward_components.values())))
            assert not (result.terminated and result.truncated)


async def _is_concurrent(part: Part) -> None:
    tasks = some_tasks(part, 8)
    alone = [await episode(part, task, str(row)) for row, task in enumerate(tasks)]
    many = [episode(part, tasks[row % len(tasks)], str(row % len(tasks))) for row in range(32)]
    for row, results in enumerate(await asyncio.gather(*many)):
        assert results == alone[row % len(tasks)]


async def _closes_twice(part: Part) -> None:
    environment: Environment = await part.instance.make()
    await environment.reset(seed=0, task=some_tasks(part, 1)[0])
    await environment.close()
    await environment.close()


async def _leaves_nothing(part: Part) -> None:
    task = some_tasks(part, 1)[0]
    await episode(part, task, "1")  # what all episodes share may start now, and stay
    with tempfile.TemporaryDirectory() as folder:
        before, usual = _children(), tempfile.tempdir
        tempfile.tempdir = folder
        try:
            for text in ("1", "something else"):
                await episode(part, task, text)
        finally:
            tempfile.tempdir = usual
        left = sorted(path.name for path in Path(folder).iterdir())
    assert not left, f"these files are left: {left}"
    assert _children() <= before, "a process is left"


def _children() -> set[str]:
    """The processes that this one has started, where the system tells."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


async def _grades(part: Part, gold: Callable[[Task], str | Sequence[str]]) -> None:
    for task in some_tasks(part, 20):
        right, wrong = await episode(part, task, gold(task)), await episode(part, task, "no idea")
        score = sum(result.reward for result in right)
        assert score == 1, f"the right answer to {task.messages[-1].content!r} scores {score}"
        assert sum(result.reward for result in wrong) < 1
