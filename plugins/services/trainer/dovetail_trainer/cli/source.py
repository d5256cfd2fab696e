"""What `collect` and `eval` play: the policy and the environment of a configuration, or of a run."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from dovetail.errors import DataError, UserError

if TYPE_CHECKING:
    from dovetail.agents.agent import Agent
    from dovetail.messages import Task
    from dovetail.parts import Part
    from dovetail.rollouts import Rollouts
    from dovetail_trainer.config.schema import RunConfig

BATCH = 64  # tasks played at a time


def configure(parser: argparse.ArgumentParser) -> None:
    """Options that both commands have."""
    parser.add_argument("source", help="a configuration, or the folder of a run, whose final model is taken")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a value")
    parser.add_argument("--model", help="another model: a folder, or a name on the hub")
    parser.add_argument("--split", default="test", help="of the environment's tasks: train or test")
    parser.add_argument("--tasks", type=int, default=256, help="most tasks")
    parser.add_argument("--samples", type=int, default=1, help="episodes of each task")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest tokens")
    parser.add_argument("--seed", type=int, default=0)


@attrs.frozen
class Source:
    """A checked configuration, and the words of the command line that count for playing."""

    config: RunConfig
    arguments: argparse.Namespace

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Source:
        """Read it; a UserError if there is no environment, or the run has no final model."""
        from dovetail_trainer.config.load import load

        for name in ("tasks", "samples"):
            if getattr(arguments, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
        given = Path(arguments.source)
        config = load(given / "config.json" if given.is_dir() else given, arguments.set)
        if config.environment is None:
            raise UserError(f"{given} names no environment to play in", hint="--set environment=…")
        if given.is_dir() and arguments.model is None:
            if not (given / "final").is_dir():
                raise UserError(f"{given} has no final model yet", hint="wait for its end, or give --model")
            arguments.model = str(given / "final")
        return cls(config, arguments)

    def environment(self) -> Part:
        from dovetail_trainer.config.build import build_part

        assert self.config.environment is not None
        return build_part("environments", self.config.environment)

    def policy(self, model: str | None = None) -> Agent:
        """The configured policy, with another model if one was given."""
        from dovetail_trainer.config.build import build_agent

        model = model or self.arguments.model
        chosen = self.config.policy if model is None else attrs.evolve(self.config.policy, model=model, tiny=None)
        return build_agent(attrs.evolve(chosen, trainable=False, lora=None))

    def tasks(self, environment: Part) -> list[Task]:
        """The first tasks of the split; a DataError if there are none."""
        found = environment.call("tasks", {"split": self.arguments.split})
        tasks = list(itertools.islice(found, self.arguments.tasks))
        if not tasks:
            raise DataError(f"the {self.arguments.split} split of the environment {environment.name!r} is empty")
        return tasks

    @property
    def temperature(self) -> float:
        """At which completions are drawn."""
        wanted: float | None = self.arguments.temperature
        return self.config.settings.sampling.temperature if wanted is None else wanted

    def play(self, policy: Agent, environment: Part, tasks: list[Task]) -> Iterator[Rollouts]:
        """Episodes of all tasks, a batch at a time."""
        import torch

        from dovetail.messages import Tasks
        from dovetail.runtime.scoring import Offloader
        from dovetail_trainer.playing import play

        settings, wanted = self.config.settings, self.arguments
        if settings.threads:
            torch.set_num_threads(settings.threads)
        sampling = attrs.evolve(settings.sampling, temperature=self.temperature)
        with contextlib.closing(Offloader()) as offloader:
            for start in range(0, len(tasks), BATCH):
                batch, seed = Tasks(tasks[start : start + BATCH]), wanted.seed * 1_000_003 + start
                yield play(policy, environment, batch, wanted.samples, sampling, settings, offloader, seed)
