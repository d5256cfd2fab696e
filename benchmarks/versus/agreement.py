"""Do both sides compute the same loss and gradient from the same rollouts?"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import attrs
import torch

import dovetail as dt
from versus import dovetail_side
from versus.workloads import Result, Workload, completions, gradients, perturb

TOLERANCE = 1e-4


@attrs.frozen(eq=False)
class Replay:
    """A generator that gives completions that were drawn before."""

    completions: list[list[int]]

    @dt.hookimpl
    def generate(self, prompts: Any, samples: int, model: Any) -> dt.Generated:
        """The completions, with log-probs that nothing here reads."""
        rows = dt.Ragged.from_rows([torch.tensor(row) for row in self.completions])
        zeros = rows.with_values(torch.zeros(len(rows.values)))
        return dt.Generated(rows, zeros, ("stop",) * len(rows))


def disagreement(workload: Workload, model: Path, device: str, peer: str = "trl") -> tuple[float, float]:
    """Relative difference of loss and of gradient between dovetail and a peer, on one batch of rollouts."""
    rows = completions(workload)
    ours = _dovetail(workload, model, device, rows)
    theirs = importlib.import_module(f"versus.{peer}_side").loss_and_gradients(workload, model, device, rows)
    return compare(ours, theirs)


def compare(ours: Result, theirs: Result) -> tuple[float, float]:
    """Relative difference of two losses and of their gradients."""
    loss = abs(ours[0] - theirs[0]) / max(abs(theirs[0]), 1e-3)
    gap = sum(float((ours[1][name] - grad).square().sum()) for name, grad in theirs[1].items()) ** 0.5
    norm = sum(float(grad.square().sum()) for grad in theirs[1].values()) ** 0.5
    return loss, gap / norm


def replay(rows: list[list[int]]) -> Any:
    """The part that gives these completions."""
    dt.generators.register("replay", Replay)
    return dt.generators["replay"](completions=rows)


def _dovetail(workload: Workload, model: Path, device: str, rows: list[list[int]]) -> Result:
    trainer = dovetail_side.make_trainer(workload, model, device, generator=replay(rows))
    perturb(trainer.policy.model)
    tasks = dovetail_side.tasks(workload)
    metrics = trainer.compiled.learn(trainer.compiled.collect(prompts=tasks, seed=0), update=False)
    return metrics["loss"], gradients(trainer.policy.model)
