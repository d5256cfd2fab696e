"""Runs for tests of several processes: what each process does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import torch
from parts_of_tests import lowercase, tiny_policy
from ranked import kill_myself

import dovetail as dt
from dovetail.messages import Message, StepResult, SyncEnvironment, Task

ROWS = [f"{number}+1=" for number in range(8)]


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


@attrs.define(eq=False)
class Trouble:
    """In process 1, at the end of a step: it dies, it stumbles, or its weights change."""

    at: int
    kind: str

    @dt.hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Any) -> None:
        if (rank(), step) == (1, self.at):
            if self.kind == "killed":
                kill_myself()
            if self.kind == "stumbles":
                raise dt.DovetailError("a disk is full")
            with torch.no_grad():
                next(iter(run.agents["policy"].named_parameters().values())).add_(1e-3)


@attrs.define(eq=False)
class Asked:
    """A reward that notes how many rows it was asked for."""

    together: bool
    rows: list[int] = attrs.field(factory=list)

    @dt.hookimpl
    def score(self, texts: Any) -> list[float]:
        return self._scored(texts)

    def _scored(self, texts: Any) -> list[float]:
        self.rows.append(len(texts))
        return [len(set(text)) / 8 for text in texts]


@attrs.define(eq=False)
class AskedTogether(Asked):
    """One that looks at rows together: what it gives depends on how many there are."""

    @dt.hookimpl
    def score(self, texts: Any, groups: Any) -> list[float]:  # type: ignore[override]
        return [each + len(texts) for each in self._scored(texts)]


class Echo(SyncEnvironment):
    """Two turns, paid by the seed of the episode and by what was said."""

    def on_reset(self, seed: int, task: Task | None) -> StepResult:
        self._seed, self._turns = seed, 0
        assert task is not None
        return StepResult(messages=task.messages)

    def on_step(self, action: Message) -> StepResult:
        self._turns += 1
        reward = (self._seed % 7 + len(set(action.content))) / 10
        return StepResult((Message("user", "go on"),), reward=reward, terminated=self._turns == 2)


class Echoes:
    """The environment of echoes."""

    traits = ("multi_turn",)

    @dt.hookimpl
    def tasks(self, split: str) -> list[Task]:
        return [Task.of(text, id=str(row)) for row, text in enumerate(ROWS)]

    @dt.hookimpl
    async def make(self) -> Echo:
        return Echo()


def trainer(folder: Path, *, trouble: tuple[int, str] | None = None, **words: Any) -> Any:
    """A run of grpo on a tiny model."""
    settings = {"batch_size": 4, "checkpoint_every": 2, "sampling": dt.Sampling(max_tokens=5), **words}
    if "environment" not in settings:
        settings = {"prompts": ROWS, "rewards": [lowercase], **settings}
    extensions = [Trouble(*(trouble or (0, "none")))]
    return dt.Trainer(
        "grpo",
        policy=tiny_policy(dtype="float64"),
        loggers=["jsonl"],
        extensions=extensions,
        run_dir=folder,
        **settings,
    )


def fit_with(folder: Path, steps: int, words: dict[str, Any]) -> dict[str, float]:
    """As :func:`fit`, for processes that take arguments by place alone."""
    return fit(folder, steps, **words)


def fit(folder: Path, steps: int, *, resume: bool = False, **words: Any) -> dict[str, float]:
    """Train, or go on."""
    made = trainer(folder, **words)
    if resume:
        made.load_checkpoint()
    metrics: dict[str, float] = made.fit(steps)
    return metrics


def played(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """A step of episodes with two turns, and an evaluation."""
    made = trainer(folder, environment=Echoes())
    return made.step(), made.evaluate()


def asked(folder: Path) -> tuple[list[int], list[int], dict[str, float]]:
    """How many rows two rewards were asked for here, and what came of it."""
    apart, together = Asked(together=False), AskedTogether(together=True)
    made = trainer(folder, rewards=[apart, together])
    return apart.rows, together.rows, made.step()
