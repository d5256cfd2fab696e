"""Playing many episodes: who waits for whom, what ends them, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import attrs
import pytest
import torch
from talkers import TEMPLATES, Babbler, Talk

import dovetail as dt
from dovetail import Message, StepResult, StopReason, SyncEnvironment, Task, hookimpl
from dovetail.errors import DataError, UserError
from dovetail.messages import Tasks
from dovetail.registry import as_part
from dovetail.rollouts import RewardStatus
from dovetail.runtime.scoring import Offloader
from dovetail_episodes.driver import Driver


def play(agent, environment, tasks=4, samples=2, seed=0, turn_tokens=8, **episodes):
    """Rollouts and metrics."""
    part = as_part("environments", environment)
    driver = Driver(part, dt.TrainSettings(episodes=episodes, reward_timeout=0.2))
    chosen = Tasks([Task(str(row), (Message("user", f"question {row}"),)) for row in range(tasks)])
    with contextlib.closing(Offloader()) as offloader:
        played = driver.play(agent, chosen, samples, dt.Sampling(max_tokens=turn_tokens), seed, offloader)
    return played["out"], played["metrics"]


@pytest.fixture(scope="module")
def agent(agent_of):
    return agent_of(*TEMPLATES["chatml"], Babbler())


@attrs.frozen
class World:
    """An environment that is what its episode class makes of it."""

    episode: type
    traits = ("multi_turn",)

    @hookimpl
    def tasks(self, split):
        return [Task("0", (Message("user", "question"),))]

    @hookimpl
    async def make(self):
        return self.episode()


class Once:
    """One turn, reward 1."""

    tools = ()
    agents = ("agent",)

    async def reset(self, *, seed, task=None):
        self.task = task
        return StepResult(messages=task.messages)

    async def step(self, action):
        return StepResult(reward=1.0, terminated=True)

    async def close(self):
        pass


class Raises(Once):
    """In every second task."""

    async def step(self, action):
        if int(self.task.id) % 2:
            raise ValueError("the world is broken")
        return await super().step(action)


class RaisesAtReset(Once):
    async def reset(self, *, seed, task=None):
        raise OSError("no disk")


class Hangs(Once):
    async def step(self, action):
        await asyncio.Event().wait()


class HangsInThread(SyncEnvironment):
    def on_reset(self, seed, task):
        return StepResult(messages=task.messages)

    def on_step(self, action):
        threading.Event().wait()


class Endless(Once):
    async def step(self, action):
        return StepResult(messages=[Message("tool", "go on")], reward=0.5)


class EndsAtReset(Once):
    async def reset(self, *, seed, task=None):
        return StepResult(terminated=True)


def test_an_episode_that_raises_is_invalid_and_never_zero(agent):
    """The others keep their reward, and the reason names the line."""
    rollouts, metrics = play(agent, World(Raises))
    scores = rollouts.rewards["world"]
    assert scores.status.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert scores.values[scores.valid].tolist() == [1.0] * 4
    assert bool(scores.values[~scores.valid].isnan().all())
    assert "ValueError: the world is broken at" in scores.reasons[2]
    assert metrics["stop/error"] == 0.5


@pytest.mark.parametrize(("world", "reason"), [(RaisesAtReset, "no disk"), (EndsAtReset, "ended at its reset")])
def test_an_episode_without_a_turn_is_invalid(agent, world, reason):
    """It still has a row, without sampled tokens."""
    rollouts, _ = play(agent, World(world))
    assert len(rollouts) == 8
    assert not len(rollouts.sampled.values)
    assert all(reason in text for text in rollouts.rewards["world"].reasons.values())
    assert not bool(rollouts.rewards["world"].valid.any())


@pytest.mark.parametrize("world", [Hangs, HangsInThread])
def test_a_step_that_hangs_is_a_timeout(agent, world):
    """The deadline is enforced from outside, also on a thread that never returns."""
    rollouts, metrics = play(agent, World(world))
    assert rollouts.rewards["world"].status.tolist() == [RewardStatus.TIMEOUT] * 8
    assert rollouts.rewards["world"].reasons[0] == "step gave no answer within 0.2 s"
    assert metrics["stop/timeout"] == 1


def test_an_environment_that_holds_the_event_loop_itself_costs_its_episodes_not_the_run(agent, monkeypatch):
    """Nothing on that loop can be awaited any more; the next run has another one."""
    monkeypatch.setattr("dovetail_episodes.driver._GRACE_SECONDS", 0.1)
    release = threading.Event()

    class Blocks(Once):
        async def step(self, action):
            if self.task.id == "0":
                release.wait()
            return await super().step(action)

    rollouts, _ = play(agent, World(Blocks), tasks=2, samples=1)
    release.set()
    assert rollouts.rewards["world"].status.tolist()[0] == RewardStatus.TIMEOUT
    assert "the event loop has been held up" in rollouts.rewards["world"].reasons[0]
    again, _ = play(agent, World(Once))
    assert again.rewards["world"].values.tolist() == [1.0] * 8


def test_a_deadline_holds_for_the_whole_episode(agent):
    """However many turns it has had by then."""

    class Slow(Endless):
        async def step(self, action):
            await asyncio.sleep(0.02)
            return await super().step(action)

    rollouts, metrics = play(agent, World(Slow), deadline=0.1, max_turns=10_000)
    assert metrics["stop/timeout"] == 1
    assert "the episode gave no answer within 0.1 s" in rollouts.rewards["world"].reasons[0]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_turns": 3}, StopReason.MAX_TURNS),
        ({"max_tokens": 11}, StopReason.MAX_TOKENS),
        ({"max_turns": 100_000}, StopReason.CONTEXT_OVERFLOW),
    ],
)
def test_limits_cut_an_episode_that_goes_on(agent, limits, reason):
    """What it got until then counts, and no limit is passed by a token."""
    rollouts, metrics = play(agent, World(Endless), tasks=2, samples=1, **limits)
    assert metrics.get(f"stop/{reason}") == 1, (metrics, rollouts.rewards["world"].reasons)
    assert set(rollouts.finish_reasons) == {"length"}
    assert rollouts.rewards["world"].values.tolist() == rollouts.step_rewards.sum().tolist()
    assert torch.equal(rollouts.step_rewards.values, torch.full_like(rollouts.step_rewards.values, 0.5))
    assert int(rollouts.tokens.lengths.max()) <= agent.context
    if reason == StopReason.MAX_TOKENS:
        assert rollouts.sampled.lengths.tolist() == [11, 11]
    if reason == StopReason.MAX_TURNS:
        assert rollouts.steps.lengths.tolist() == [3, 3]


def test_what_is_sampled_does_not_depend_on_what_is_beside_it(agent):
    """One episode at a time gives what all at once give, and so does waiting for all."""
    together, _ = play(agent, Talk(), tasks=12)
    for way in ({"in_flight": 1}, {"patience": None}, {"patience": 0.0}, {"in_flight": 5}):
        other, _ = play(agent, Talk(), tasks=12, **way)
        assert torch.equal(together.tokens.values, other.tokens.values)
        assert together.conversations == other.conversations
    different, _ = play(agent, Talk(), tasks=12, seed=1)
    assert not torch.equal(together.tokens.values, different.tokens.values)


def test_samples_of_a_task_share_its_seed(agent):
    """They differ in what the policy says, not in what they start from."""
    seeds = {}

    class Seeded(Once):
        async def reset(self, *, seed, task=None):
            seeds.setdefault(task.id, set()).add(seed)
            return await super().reset(seed=seed, task=task)

    rollouts, _ = play(agent, World(Seeded), samples=3)
    assert [len(found) for found in seeds.values()] == [1] * 4
    assert len(set.union(*seeds.values())) == 4
    assert rollouts.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({tuple(row) for row in rollouts.sampled.tolist()}) > 6


def test_an_episode_that_waits_gives_its_place_to_another(agent):
    """The first task's tool answers only when all others have ended: in lockstep nobody would ever end."""
    ended = []

    class Waits(Once):
        turns = 0

        async def step(self, action):
            self.turns += 1
            if self.task.id == "0":
                while len(ended) < 6:
                    await asyncio.sleep(0)
                return StepResult(terminated=True)
            if self.turns == 5:
                ended.append(self.task.id)
            return StepResult(messages=[Message("tool", "on")], terminated=self.turns == 5)

    generator = agent.generator.instance
    generator.asked.clear()
    rollouts, metrics = play(agent, World(Waits), patience=0.0)
    assert bool(rollouts.rewards["world"].valid.all())
    assert rollouts.steps.lengths.tolist() == [1, 1, 5, 5, 5, 5, 5, 5]
    assert metrics["turns"] == 4


def test_the_first_turn_reads_a_prompt_once_for_its_samples(agent):
    """The generator is asked for several samples of each prompt."""
    seen = []

    @attrs.frozen
    class Spy(Babbler):
        @hookimpl
        def generate(self, model, tokenizer, prompts, samples, sampling, seeds):
            seen.append((len(prompts), samples))
            return super().generate(model, tokenizer, prompts, samples, sampling, seeds)

    spied = dt.Agent(agent.name, generator=as_part("generators", Spy()))
    play(spied, Talk(turns=1), tasks=3, samples=4, patience=None)
    assert seen == [(3, 4)]


def test_a_generator_that_fails_ends_the_run_and_closes_every_episode(agent):
    """No environment is left open."""
    closed = []

    class Closing(Once):
        async def close(self):
            closed.append(self)

    @attrs.frozen
    class Fails(Babbler):
        @hookimpl
        def generate(self, prompts):
            raise MemoryError("no room")

    failing = dt.Agent(agent.name, generator=as_part("generators", Fails()))
    with pytest.raises(dt.PartError, match="no room"):
        play(failing, World(Closing))
    assert len(closed) == 8


def test_an_environment_that_does_not_close_costs_nothing_but_a_wait(agent, monkeypatch):
    """The result stands."""
    monkeypatch.setattr("dovetail_episodes.episode.CLOSING_SECONDS", 0.01)

    class Clings(Once):
        async def close(self):
            await asyncio.Event().wait()

    rollouts, _ = play(agent, World(Clings))
    assert rollouts.rewards["world"].values.tolist() == [1.0] * 8


def test_both_sides_of_a_game_are_rows(agent):
    """Each agent hears what is said to it, and the groups compare it with itself in the same task."""

    class Duel(Once):
        agents = ("first", "second")
        turns = 0

        async def reset(self, *, seed, task=None):
            return StepResult(messages=task.messages, next_agent="first")

        async def step(self, action):
            self.turns += 1
            other = "second" if action.name == "first" else "first"
            heard = [Message("user", f"they said {len(action.content)} letters")]
            if self.turns < 4:
                return StepResult(messages=heard, next_agent=other)
            return StepResult(reward=1.0, terminated=True, info={"rewards": {"first": -1.0}})

    rollouts, _ = play(agent, World(Duel), tasks=2, samples=2)
    assert [task.columns["agent"] for task in rollouts.tasks] == ["first", "second"] * 4
    assert rollouts.groups.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert rollouts.rewards["world"].values.tolist() == [-1.0, 1.0] * 4
    assert rollouts.steps.lengths.tolist() == [2] * 8


def test_a_prompt_without_room_for_an_answer_is_an_error(agent):
    """As it is in a single turn: no episode could go well."""

    class Long(Once):
        async def reset(self, *, seed, task=None):
            return StepResult(messages=[Message("user", "word " * 5000)])

    with pytest.raises(DataError, match="the prompt of task '0' has"):
        play(agent, World(Long), tasks=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_turnz": 3}, "did you mean 'max_turns'"), ({"patience": -1.0}, "patience"), ({"in_flight": "many"}, "int")],
)
def test_options_that_do_not_fit_are_told(options, message):
    """Before anything has run."""
    with pytest.raises(UserError, match=message):
        Driver(as_part("environments", World(Once)), dt.TrainSettings(episodes=options))
