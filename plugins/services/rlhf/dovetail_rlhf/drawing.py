"""Completions of a model and what rewards say of them, batch by batch, without learning."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dovetail.agents.agent import Agent
from dovetail.compiler.compile import Compiled, compile
from dovetail.errors import TooManyInvalid
from dovetail.graph.build import generate, op, run_rewards, set_loss
from dovetail.graph.recipe import recipe
from dovetail.messages import Task
from dovetail.parts import Part
from dovetail.rollouts import LossTerms, Rollouts, Scores
from dovetail.settings import TrainSettings
from dovetail_trainer.manager import PartManager
from dovetail_trainer.run import Run

SEED_STRIDE = 1_000_003  # as between the steps of a run


@op
def _end(completions: Rollouts, scores: Any = None) -> LossTerms:
    raise AssertionError("what only draws is never learnt from")


@recipe
def drawing(policy: Any, prompts: Any, *, samples: int = 1, scored: bool = True) -> None:
    """Sample and score; the loss is there because a graph has one, and is never computed."""
    completions = generate(policy, prompts, samples=samples, name="completions")
    scores = {"scores": run_rewards(completions)} if scored else {}
    set_loss(_end(completions, **scores, name="loss"))


class Drawing:
    """Draws and scores batches; made by :func:`opened`."""

    def __init__(self, compiled: Compiled, run: Run, settings: TrainSettings) -> None:
        self._compiled, self._run, self._settings = compiled, run, settings

    def __call__(self, batch: int, tasks: Sequence[Task]) -> tuple[Rollouts, Scores | None]:
        """The samples of each task side by side, with their rewards, and their total.

        They depend on the seed and the number of the batch alone. Samples without a valid reward are written into the
        folder; TooManyInvalid tells of more than ``max_invalid``.
        """
        seed = self._settings.seed * SEED_STRIDE + batch
        try:
            collected = self._compiled.collect(seed=seed, prompts=list(tasks))
        except TooManyInvalid as error:
            path = self._run.write_invalid(batch + 1, error.collected.rollouts)  # type: ignore[attr-defined]
            error.where += (f"{path} (the samples, to score them again)",)
            raise
        self._run.write_invalid(batch + 1, collected.rollouts)
        return collected.rollouts, collected.values.get("rewards", {}).get("out")


@contextlib.contextmanager
def opened(
    agent: Agent, rewards: Sequence[Part], settings: TrainSettings, folder: Path, samples: int
) -> Iterator[Drawing]:
    """What draws from ``agent`` and scores by ``rewards``."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    run = Run(folder, "drawing")
    configured = drawing(samples=samples, scored=bool(rewards))
    compiled = compile(configured, policy=agent, rewards=rewards, settings=settings)
    with contextlib.closing(compiled), informed(rewards, run):
        yield Drawing(compiled, run, settings)


@contextlib.contextmanager
def informed(rewards: Sequence[Part], run: Run) -> Iterator[None]:
    """Tell rewards of the beginning, of the folder where they may keep things, and of the end, whatever it is."""
    manager, outcome = PartManager(rewards), "done"
    manager.broadcast("on_run_start", run=run)
    try:
        yield
    except BaseException as error:
        outcome = f"failed: {error}"
        raise
    finally:
        manager.broadcast("on_run_end", run=run, outcome=outcome)
