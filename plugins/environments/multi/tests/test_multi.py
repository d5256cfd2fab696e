"""What the mixture promises."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dovetail as dt
from dovetail.registry import registry
from dovetail.rollouts import Scores
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_multi import Multi
from dovetail_multi.metrics import by_environment
from dovetail_multi.mixture import alternate, mark, unmark


class Echo:
    """Say the word again. Two turns."""

    tools = (dt.ToolSpec("spell", "Spells a word."),)
    agents = ("agent",)
    made: list = []
    closed: list = []

    async def reset(self, *, seed, task=None):
        self._task, self._left = task, 2
        return dt.StepResult(task.messages if task else [dt.Message("user", f"seed {seed}")])

    async def step(self, action):
        if not self._left:
            raise RuntimeError("over")
        self._left -= 1
        right = float(action.content == self._task.answer)
        answers = [dt.Message("tool", "spelled", tool_call_id=call.id) for call in action.tool_calls]
        return dt.StepResult(answers, reward=right, reward_components={"right": right}, terminated=not self._left)

    async def close(self):
        self.closed.append(self)


class Words:
    """Ten words, or as many as there are; ``kind`` is in each.

    Args:
        kind: Of the words.
        count: Of the words of each split.
        endless: Whether the tasks to train on never end.
    """

    traits = ("multi_turn",)

    def __init__(self, *, kind: str = "a", count: int = 10, endless: bool = False):
        self.kind, self.count, self.endless = kind, count, endless

    @dt.hookimpl
    def tasks(self, split):
        numbers = itertools.count() if self.endless and split == "train" else range(self.count)
        words = (f"{self.kind}{split}{number}" for number in numbers)
        found = (dt.Task(word, (dt.Message("user", word),), word, {"kind": self.kind}) for word in words)
        return found if self.endless else list(found)

    @dt.hookimpl
    async def make(self):
        episode = Echo()
        Echo.made.append(episode)
        return episode


registry("environments").register("words", Words)
MIXTURE = {
    "environments": [
        {"use": "words", "weight": 3, "name": "plain"},
        {"use": "words", "kind": "b", "name": "stream", "endless": True},
    ]
}


@pytest.mark.parametrize("check", part_checks("environments", "multi", options=MIXTURE), ids=str)
def test_conformance(check):
    """It keeps what every environment promises."""
    check()


def test_tasks_come_in_proportion_and_shuffled_anew():
    """Three of one to one of the other; a list is used up before a task of it comes again."""
    tasks = list(itertools.islice(Multi(**MIXTURE).tasks("train"), 80))
    names = [task.columns["environment"] for task in tasks]
    assert Counter(names) == {"plain": 60, "stream": 20}
    assert all(Counter(names[start : start + 4])["stream"] == 1 for start in range(0, 80, 4))
    plain = [task.answer for task in tasks if task.columns["environment"] == "plain"]
    epochs = [plain[start : start + 10] for start in range(0, 60, 10)]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6
    assert [task.answer for task in tasks if task.columns["environment"] == "stream"] == [
        f"btrain{n}" for n in range(20)
    ]
    other = list(itertools.islice(Multi(**MIXTURE, seed=1).tasks("train"), 80))
    assert other != tasks


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(1, 200))
def test_every_beginning_of_the_stream_keeps_the_proportions(weights, count):
    """Give or take less than the number of environments."""
    names = {str(number): weight for number, weight in enumerate(weights)}
    drawn = Counter(itertools.islice(alternate(names), count))
    for name, weight in names.items():
        assert abs(drawn[name] - count * weight / sum(weights)) < max(1.001, len(weights))


def test_held_out_tasks_come_once_each():
    """Also those of the smaller weight, when the others have run out."""
    mixture = Multi(**MIXTURE, test_size=8)
    tasks = mixture.tasks("test")
    assert len(tasks) == len({task.id for task in tasks}) == 16
    assert [task.columns["environment"] for task in tasks[:4]].count("plain") == 3


def test_an_episode_is_the_one_of_its_environment():
    """Its task arrives as it left, its tools are there after the reset, its components bear its name."""

    async def play():
        episode = await Multi(**MIXTURE).make()
        task = next(iter(Multi(**MIXTURE).tasks("train")))
        assert episode.tools == ()
        with pytest.raises(RuntimeError, match="before reset"):
            await episode.step(dt.Message("assistant", "x"))
        await episode.reset(seed=0, task=task)
        assert episode.tools == Echo.tools
        result = await episode.step(dt.Message("assistant", task.answer))
        inner = Echo.made[-1]
        assert inner._task == Words().tasks("train")[int(task.answer[-1])]
        await episode.reset(seed=0, task=task)
        assert Echo.made[-1] is inner
        await episode.close()
        await episode.close()
        assert Echo.closed.count(inner) == 1
        return result

    result = asyncio.run(play())
    assert (result.reward, result.reward_components) == (1.0, {"plain.right": 1.0})


def test_mixtures_may_hold_mixtures():
    """A task finds its way through both."""
    nested = {"environments": [{"use": "multi", "name": "outer", **MIXTURE}, {"use": "words", "kind": "c"}]}

    async def play(task):
        episode = await Multi(**nested).make()
        await episode.reset(seed=0, task=task)
        result = await episode.step(dt.Message("assistant", task.answer))
        await episode.close()
        return result

    tasks = list(itertools.islice(Multi(**nested).tasks("train"), 8))
    assert {task.columns["environment"] for task in tasks} == {"outer/plain", "outer/stream", "words"}
    assert all(asyncio.run(play(task)).reward == 1 for task in tasks)


@given(st.dictionaries(st.sampled_from(["kind", "environment"]), st.sampled_from(["x", "y/z"])))
def test_marks_come_off_again(columns):
    """Whatever columns a task has."""
    task = dt.Task("a/b", (), columns=columns)
    assert unmark(mark("name", task)) == ("name", task)


def test_metrics_are_of_each_environment():
    """Share, invalid samples, means over the valid ones, and no component of another environment."""
    columns = [{"environment": "a"}, {"environment": "b/c"}]
    rollouts = tiny_rollouts(columns=columns)  # four samples of each task
    total = Scores(
        torch.tensor([1.0, 0, 1, 0, 5, 5, 5, 9]), torch.tensor([0, 0, 0, 0, 0, 0, 0, 1], dtype=torch.uint8), {7: "x"}
    )
    rollouts = attrs.evolve(rollouts, rewards={"total": total, "multi.a.right": total})
    assert by_environment(rollouts, ["a", "b"]) == {
        "multi/a/share": 0.5,
        "multi/a/total": 0.5,
        "multi/a/multi.a.right": 0.5,
        "multi/a/invalid": 0.0,
        "multi/b/share": 0.5,
        "multi/b/total": 5.0,
        "multi/b/invalid": 0.25,
    }


def test_it_can_be_made_again_from_what_a_run_keeps():
    """Parts become words."""
    part = dt.environments.multi(environments=[dt.environments.words(kind="z", weight=2.0, name="zed")])
    words = {"use": "words", "weight": 2.0, "name": "zed", "kind": "z", "count": 10, "endless": False}
    assert part.options()["environments"] == (words,)
    assert part.instance.traits == ("multi_turn",)


@pytest.mark.parametrize(
    ("environments", "message"),
    [
        ([], "needs environments"),
        ([{"name": "x"}], "is written {use"),
        (["words", {"use": "words"}], "two environments are called 'words'"),
        ([{"use": "words", "name": "a/b"}], "must not hold a slash"),
        ([{"use": "words", "weight": 0}], "must be above 0"),
        ([{"use": "words", "kin": "a"}], "did you mean 'kind'"),
        ([{"use": "word"}], "did you mean 'words'"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(environments, message):
    """With what is wrong and how it is written."""
    with pytest.raises(dt.UserError, match=message):
        dt.environments.multi(environments=environments)


def test_a_task_of_elsewhere_and_an_empty_member_are_told():
    """By name."""

    async def reset():
        await (await Multi(**MIXTURE).make()).reset(seed=0, task=dt.Task.of("hello", "lost"))

    with pytest.raises(dt.DataError, match="'lost' is none of this mixture"):
        asyncio.run(reset())
    with pytest.raises(dt.DataError, match="'words' of the mixture has no tasks"):
        next(iter(dt.environments.multi(environments=[{"use": "words", "count": 0}]).call("tasks", {"split": "train"})))
