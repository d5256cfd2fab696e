"""Greedy evaluation on an environment's test tasks."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from dovetail.errors import DataError
from dovetail.messages import Task
from dovetail.parts import Part
from dovetail.rollouts import Rollouts, Tasks
from dovetail.runtime.scoring import check_scores, episode_reward
from dovetail.sampling import Sampling


def held_out_tasks(environment: Part, count: int) -> list[Task]:
    """The first ``count`` tasks of the test split.

    Raises:
        DataError: There are none.
    """
    tasks = list(itertools.islice(environment.call("tasks", {"split": "test"}), count))
    if not tasks:
        raise DataError(f"the test split of the environment {environment.name!r} is empty")
    return tasks


def evaluate(
    agent: Any, environment: Part, tasks: Sequence[Task], sampling: Sampling, batch: int = 128
) -> dict[str, float]:
    """Mean reward of greedy completions: ``eval/reward``; episodes that fail are counted in ``eval/invalid``."""
    greedy = attrs.evolve(sampling, temperature=0.0)
    reward = episode_reward(environment)
    scores, lengths, started = [], [], time.perf_counter()
    for start in range(0, len(tasks), batch):
        chosen = tasks[start : start + batch]
        prompts = agent.encode(chosen)
        seeds = torch.zeros(len(chosen), dtype=torch.int64)
        generated = agent.generate(prompts, 1, greedy, seeds)
        rollouts = Rollouts.single_turn(prompts, generated, Tasks(chosen), sampling=greedy, decode=agent.decode)
        values = asyncio.run(reward.instance.score(rollouts.texts, rollouts.tasks))
        scores.append(check_scores(reward, values, len(chosen)))
        lengths.append(rollouts.sampled.lengths)
    values, valid = torch.cat([s.values for s in scores]), torch.cat([s.valid for s in scores])
    return {
        "eval/reward": values[valid].mean().item() if bool(valid.any()) else float("nan"),
        "eval/invalid": 1 - valid.float().mean().item(),
        "eval/completion_length": torch.cat(lengths).float().mean().item(),
        "time/eval": time.perf_counter() - started,
    }
