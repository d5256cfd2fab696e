"""What the environment promises: tests decide, in a sandbox; solutions pass, the rest does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dovetail import Message, environments
from dovetail_code import LEVELS

HUMANEVAL = Path(__file__).parents[4] / "../shared/data/humaneval/HumanEval.jsonl.gz"


def scores(part, answer_of):
    """The rewards of all problems, many episodes at a time."""

    async def play(task):
        episode = await part.instance.make()
        await episode.reset(seed=0, task=task)
        return (await episode.step(Message("assistant", answer_of(task)))).reward

    async def play_all():
        return await asyncio.gather(*map(play, part.call("tasks", {"split": "train"})))

    return asyncio.run(play_all())


@pytest.fixture
def humaneval():
    if not HUMANEVAL.exists():
        pytest.skip(f"needs HumanEval.jsonl.gz at {HUMANEVAL}")
    return environments.code(path=str(HUMANEVAL), held_out=0.0)


def test_humaneval_grades_its_own_solutions(humaneval):
    """164 of 164 canonical solutions score 1, and not one empty answer."""
    assert sum(scores(humaneval, lambda task: task.answer)) == len(humaneval.call("tasks", {"split": "train"})) == 164
    assert sum(scores(humaneval, lambda task: "")) == 0


def test_generated_problems_are_solved_by_their_solutions():
    """Every level."""
    part = environments.code(levels=list(LEVELS), size=100, held_out=0.0)
    found = scores(part, lambda task: task.answer)
    assert found == [1.0] * len(found)
    assert len(found) > 80
