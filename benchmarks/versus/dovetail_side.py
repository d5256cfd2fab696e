"""One step of dovetail, as a user would write it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import dovetail as dt
from versus.workloads import LEARNING_RATE, Workload, prompts, reward


def odd_share(completions: dt.Ragged) -> torch.Tensor:
    """The workload's reward."""
    return torch.tensor([reward(row.tolist()) for row in completions])


def tasks(workload: Workload) -> list[dt.Task]:
    """Those of the first batch."""
    return [dt.Task.of(prompt, id=str(row)) for row, prompt in enumerate(prompts(workload)[: workload.prompts])]


def make_trainer(
    workload: Workload, model: Path, device: str, micro_batch_tokens: int | None = None, **agent: Any
) -> dt.Trainer:
    """The trainer of a workload."""
    if "odd-share" not in list(dt.rewards):
        dt.rewards.register("odd-share", odd_share)
    least, most = workload.completion_tokens
    policy = dt.Agent(model, device=device, optimizer=dt.OptimizerSettings(lr=LEARNING_RATE), **agent)
    return dt.Trainer(
        dt.recipes.grpo(group_size=workload.group, beta=workload.beta),
        policy=policy,
        prompts=prompts(workload),
        rewards=[dt.rewards["odd-share"]()],
        batch_size=workload.prompts,
        micro_batch_tokens=micro_batch_tokens,
        sampling=dt.Sampling(max_tokens=most, min_tokens=least),
        checkpoint_every=0,
        rollouts_every=0,
        run_dir=tempfile.mkdtemp(prefix="versus-"),
    )


def steps(workload: Workload, model: Path, device: str) -> Any:
    """An endless generator: one step for each value taken, its phases in seconds and its sampled tokens."""
    trainer = make_trainer(workload, model, device)
    yield None
    while True:
        metrics = trainer.step()
        yield {
            "tokens": int(metrics["tokens"]),
            "phases": {
                name.removeprefix("time/"): value for name, value in metrics.items() if name.startswith("time/")
            },
        }
