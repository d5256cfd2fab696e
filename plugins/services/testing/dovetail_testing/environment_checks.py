"""What every environment promises."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from dovetail.messages import Environment, Message, StepResult, Task
from dovetail.parts import Part

_CANARY = "canary-7c1e44"


def checks(_: Part, *, gold: Callable[[Task], str] | None = None) -> dict[str, Callable[[Part], None]]:
    """Claims and functions; ``gold`` writes the answer that must score 1."""
    promises: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "it has tasks, the same ones at each call": _has_tasks,
        "the same seed and task give the same episode": _is_deterministic,
        "a step after the end raises": _refuses_late_steps,
        "the answer is nowhere before the end": _hides_answer,
        "what it says survives JSON": _is_json,
        "rewards are finite, and an end is terminated or truncated": _ends_well,
        "32 episodes at a time do not touch each other": _is_concurrent,
        "close may be called twice": _closes_twice,
    }
    if gold is not None:
        promises["the right answer scores 1, another does not"] = functools.partial(_grades, gold=gold)
    return {claim: functools.partial(_run, check) for claim, check in promises.items()}


def _run(check: Callable[[Part], Coroutine[Any, Any, None]], part: Part) -> None:
    asyncio.run(check(part))


def some_tasks(part: Part, count: int = 8, split: str = "train") -> list[Task]:
    return list(itertools.islice(part.call("tasks", {"split": split}), count))


async def episode(part: Part, task: Task, text: str, seed: int = 0) -> list[StepResult]:
    """What a new environment says from its reset to the end of the episode, when it always hears the same text."""
    environment: Environment = await part.instance.make()
    results = await play(environment, task, text, seed)
    await environment.close()
    return results


async def play(environment: Environment, task: Task, text: str, seed: int = 0) -> list[StepResult]:
    """As :func:`episode`, in a given environment; at most 20 turns."""
    results = [await environment.reset(seed=seed, task=task)]
    while not has_ended(results[-1]) and len(results) < 21:
        results.append(await environment.step(Message("assistant", text)))
    return results


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
    assert has_ended(results[-1]), "no end after 20 turns"
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
    if not has_ended(result):
        shown += repr(result)
    await environment.close()
    assert _CANARY not in shown, "the answer leaks"
    assert _CANARY not in repr(result.info), "the answer leaks through info"


async def _is_json(part: Part) -> None:
    for result in await episode(part, some_tasks(part, 1)[0], "1"):
        json.dumps(attrs.asdict(result), allow_nan=False)


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


async def _grades(part: Part, gold: Callable[[Task], str]) -> None:
    for task in some_tasks(part, 20):
        right, wrong = await episode(part, task, gold(task)), await episode(part, task, "no idea")
        assert right[-1].reward == 1, f"the right answer to {task.messages[-1].content!r} scores {right[-1].reward}"
        assert wrong[-1].reward < 1
