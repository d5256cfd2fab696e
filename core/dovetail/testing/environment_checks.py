"""What every environment promises."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from dovetail.messages import Environment, Message, StepResult, Task
from dovetail.parts import Part

_CANARY = "canary-7c1e44"


def checks(part: Part, *, gold: Callable[[Task], str] | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """Claims and functions; ``gold`` writes the answer that must score 1."""
    yield "it has tasks, the same ones at each call", lambda: _has_tasks(part)
    yield "the same seed and task give the same episode", lambda: asyncio.run(_is_deterministic(part))
    yield "a step after the end raises", lambda: asyncio.run(_refuses_late_steps(part))
    yield "the answer is nowhere before the end", lambda: asyncio.run(_hides_answer(part))
    yield "what it says survives JSON", lambda: asyncio.run(_is_json(part))
    yield "rewards are finite, and an end is terminated or truncated", lambda: asyncio.run(_ends_well(part))
    yield "32 episodes at a time do not touch each other", lambda: asyncio.run(_is_concurrent(part))
    yield "close may be called twice", lambda: asyncio.run(_closes_twice(part))
    if gold is not None:
        yield "the right answer scores 1, another does not", lambda: asyncio.run(_grades(part, gold))


def some_tasks(part: Part, count: int = 8, split: str = "train") -> list[Task]:
    return list(itertools.islice(part.call("tasks", {"split": split}), count))


async def play(part: Part, task: Task, answer: str, seed: int = 0) -> list[StepResult]:
    """Answer until the episode ends, at most 20 turns."""
    environment: Environment = await part.instance.make()
    results = [await environment.reset(seed=seed, task=task)]
    while not (results[-1].terminated or results[-1].truncated) and len(results) < 21:
        results.append(await environment.step(Message("assistant", answer)))
    await environment.close()
    return results


def _has_tasks(part: Part) -> None:
    first, second = some_tasks(part), some_tasks(part)
    assert first, "the train split is empty"
    assert first == second
    train, test = ({repr(task.messages) for task in some_tasks(part, 200, split)} for split in ("train", "test"))
    assert not train & test, "a task is in both splits"


async def _is_deterministic(part: Part) -> None:
    for task in some_tasks(part, 3):
        first, second = await play(part, task, "1", seed=3), await play(part, task, "1", seed=3)
        assert first == second


async def _refuses_late_steps(part: Part) -> None:
    environment: Environment = await part.instance.make()
    result = await environment.reset(seed=0, task=some_tasks(part, 1)[0])
    for _ in range(20):
        if result.terminated or result.truncated:
            break
        result = await environment.step(Message("assistant", "1"))
    assert result.terminated or result.truncated, "no end after 20 turns"
    try:
        await environment.step(Message("assistant", "1"))
    except RuntimeError:
        return
    finally:
        await environment.close()
    raise AssertionError("a step after the end went through")


async def _hides_answer(part: Part) -> None:
    task = attrs.evolve(some_tasks(part, 1)[0], answer=_CANARY)
    environment: Environment = await part.instance.make()
    shown = repr(await environment.reset(seed=0, task=task))
    result = await environment.step(Message("assistant", "something else"))
    if not (result.terminated or result.truncated):
        shown += repr(result)
    await environment.close()
    assert _CANARY not in shown, "the answer leaks"
    assert _CANARY not in repr(result.info), "the answer leaks through info"


async def _is_json(part: Part) -> None:
    for result in await play(part, some_tasks(part, 1)[0], "1"):
        data: Any = attrs.asdict(result)
        assert json.loads(json.dumps(data)) == json.loads(json.dumps(json.loads(json.dumps(data))))


async def _ends_well(part: Part) -> None:
    for task in some_tasks(part, 3):
        for result in await play(part, task, "1"):
            assert math.isfinite(result.reward)
            assert all(math.isfinite(value) for value in result.reward_components.values())
            assert not (result.terminated and result.truncated)


async def _is_concurrent(part: Part) -> None:
    tasks = some_tasks(part, 8)
    alone = [await play(part, task, str(row)) for row, task in enumerate(tasks)]
    many = [play(part, tasks[row % len(tasks)], str(row % len(tasks))) for row in range(32)]
    for row, results in enumerate(await asyncio.gather(*many)):
        assert results == alone[row % len(tasks)]


async def _closes_twice(part: Part) -> None:
    environment: Environment = await part.instance.make()
    await environment.reset(seed=0, task=some_tasks(part, 1)[0])
    await environment.close()
    await environment.close()


async def _grades(part: Part, gold: Callable[[Task], str]) -> None:
    for task in some_tasks(part, 20):
        right, wrong = await play(part, task, gold(task)), await play(part, task, "no idea")
        assert right[-1].reward == 1, f"the right answer to {task.messages[-1].content!r} scores {right[-1].reward}"
        assert wrong[-1].reward < 1
