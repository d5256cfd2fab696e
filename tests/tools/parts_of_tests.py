"""Rewards of the tests, registered by name as a script would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

import dovetail as dt
from dovetail.registry import registry


@pytest.fixture
def register() -> Iterator[object]:
    """register(kind, name, target) until the test ends."""
    with contextlib.ExitStack() as stack:

        def do(kind: str, name: str, target: object) -> object:
            registry(kind).register(name, target)
            stack.callback(registry(kind)._own.pop, name, None)
            return target

        yield do


def lowercase(texts):
    """Share of lower-case letters."""
    return [sum(map(str.islower, text)) / max(len(text), 1) for text in texts]


async def patient(texts):
    """An async reward."""
    await asyncio.sleep(0)
    return [len(text) / 100 for text in texts]


def every_tenth_fails(texts, tasks):
    """Fails where the task's number ends in 0."""
    if len(texts) == 1 and tasks[0].id.endswith("0"):
        raise ValueError(f"no score for task {tasks[0].id}")
    if any(task.id.endswith("0") for task in tasks):
        raise ValueError("one of the tasks cannot be scored")
    return [0.1 for _ in texts]


def tiny_policy(**options):
    """A trainable tiny agent with a learning rate at which it moves."""
    learning = dt.OptimizerSettings(lr=1e-2)
    return dt.Agent.tiny(**{"hidden": 16, "layers": 1, "heads": 2, "optimizer": learning, **options}, trainable=True)
