"""Episodes whose tools take their time: those that are ready go on, against all waiting for all.

python benchmarks/episodes_in_flight.py

Each turn's tool sleeps 50 to 500 ms, each episode has 1 to 8 turns. In lockstep a batch of episodes takes its turns
together and the next batch begins when the last of them has ended, as most trainers do it. The last line is what the
driver itself costs: episodes whose tool answers at once and whose policy takes no time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time

import attrs
import torch

import dovetail as dt
from dovetail import Generated, Message, Ragged, StepResult, Task, hookimpl
from dovetail.messages import Tasks
from dovetail.registry import as_part
from dovetail.runtime.scoring import Offloader
from dovetail_episodes.driver import Driver


@attrs.frozen
class Sleepy:
    """Turns and waits by the task's seed."""

    low: float
    high: float
    traits = ("multi_turn",)

    @hookimpl
    def tasks(self, split):
        return [Task(str(row), (Message("user", f"task {row}: "),)) for row in range(4096)]

    @hookimpl
    async def make(self):
        return SleepyEpisode(self.low, self.high)


class SleepyEpisode:
    tools = ()
    agents = ("agent",)

    def __init__(self, low, high):
        self.low, self.high = low, high

    async def reset(self, *, seed, task=None):
        self.chance = random.Random(task.id)
        self.left = self.chance.randint(1, 8)
        return StepResult(messages=task.messages)

    async def step(self, action):
        self.left -= 1
        if self.high:
            await asyncio.sleep(self.chance.uniform(self.low, self.high))
        return StepResult(messages=[Message("tool", "ok ")], terminated=self.left == 0)

    async def close(self):
        pass


class Instant:
    """A policy that takes no time."""

    @hookimpl
    def generate(self, tokenizer, prompts, samples):
        ended = torch.full((len(prompts) * samples, 1), tokenizer.eos_token_id)
        completions = Ragged.from_rows(list(ended))
        return Generated(completions, completions.with_values(-torch.ones(len(ended))), ("stop",) * len(ended))


def play(agent, environment, episodes, at_a_time, **settings):
    """Seconds, turns, and turns for each call of the policy; in lockstep, one batch after the other."""
    part = as_part("environments", environment)
    driver, tasks = Driver(part, dt.TrainSettings(episodes=settings)), part.call("tasks", {"split": "train"})[:episodes]
    batches = [tasks] if at_a_time is None else [tasks[at : at + at_a_time] for at in range(0, episodes, at_a_time)]
    started, turns, sizes = time.perf_counter(), 0, []
    with contextlib.closing(Offloader()) as offloader:
        for batch in batches:
            played = driver.play(agent, Tasks(batch), 1, dt.Sampling(max_tokens=8), 0, offloader)
            turns += len(played["out"].steps.values)
            sizes.append(played["metrics"]["batch"])
    return time.perf_counter() - started, turns, sum(sizes) / len(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32, help="episodes at a time in lockstep")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    agent = dt.Agent.tiny(hidden=32, layers=2, heads=4, context=256)
    sleepy, batch = Sleepy(0.05, 0.5), arguments.batch
    ways = [
        (f"lockstep, {batch} at a time", batch, {"patience": None}),
        (f"{batch} in flight", None, {"in_flight": batch}),
        (f"{4 * batch} in flight", None, {"in_flight": 4 * batch}),
        (f"{16 * batch} in flight", None, {"in_flight": 16 * batch}),
    ]
    play(agent, Sleepy(0, 0), 32, None)  # warm
    print(
        "| way | seconds | episodes/s | turns for each call of the policy | against lockstep |\n|---|---|---|---|---|"
    )
    slowest = None
    for name, at_a_time, settings in ways:
        seconds, _, size = play(agent, sleepy, arguments.episodes, at_a_time, **settings)
        slowest = slowest or seconds
        speed = arguments.episodes / seconds
        print(f"| {name} | {seconds:.1f} | {speed:.1f} | {size:.0f} | {slowest / seconds:.1f} |", flush=True)
    instant = dt.Agent.tiny(hidden=8, layers=1, heads=1, context=256, generator=as_part("generators", Instant()))
    play(instant, Sleepy(0, 0), 32, None)
    seconds, turns, _ = play(instant, Sleepy(0, 0), 1024, None)
    print(f"\nthe driver's own time: {seconds / turns * 1e3:.2f} ms for each of {turns} turns")


if __name__ == "__main__":
    main()
