"""Do both sides compute the same loss and gradient from the same rollouts?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch

import dovetail as dt
from versus import dovetail_side, trl_side
from versus.workloads import END, Workload

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


def disagreement(workload: Workload, model: Path, device: str) -> tuple[float, float]:
    """Relative difference of loss and of gradient between the two sides, on one batch of rollouts."""
    completions = _completions(workload)
    ours = _dovetail(workload, model, device, completions)
    theirs = _trl(workload, model, device, completions)
    loss = abs(ours[0] - theirs[0]) / max(abs(theirs[0]), 1e-3)
    gap = sum(float((ours[1][name] - grad).square().sum()) for name, grad in theirs[1].items()) ** 0.5
    norm = sum(float(grad.square().sum()) for grad in theirs[1].values()) ** 0.5
    return loss, gap / norm


def _completions(workload: Workload) -> list[list[int]]:
    draw = torch.Generator().manual_seed(1)
    least, most = workload.completion_tokens
    rows = []
    for _ in range(workload.prompts * workload.group):
        length = int(torch.randint(least, most + 1, (), generator=draw))
        row = torch.randint(2, workload.model.vocabulary, (length,), generator=draw).tolist()
        rows.append([*row[:-1], END] if length < most else row)
    return rows


def _perturb(model: Any) -> None:
    """Move the policy away from the reference, so that a KL penalty has something to say."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw).to(parameter)
            parameter.add_(noise, alpha=0.1 * float(parameter.std()) if parameter.numel() > 1 else 0.0)


Result = tuple[float, dict[str, torch.Tensor]]


def _dovetail(workload: Workload, model: Path, device: str, completions: list[list[int]]) -> Result:
    dt.generators.register("replay", Replay)
    trainer = dovetail_side.make_trainer(
        workload, model, device, generator=dt.generators["replay"](completions=completions)
    )
    _perturb(trainer.policy.model)
    tasks = [
        dt.Task.of(prompt, id=str(row))
        for row, prompt in enumerate(dovetail_side.prompts(workload)[: workload.prompts])
    ]
    metrics = trainer.compiled.learn(trainer.compiled.collect(prompts=tasks, seed=0), update=False)
    return metrics["loss"], _gradients(trainer.policy.model)


def _trl(workload: Workload, model: Path, device: str, completions: list[list[int]]) -> Result:
    trainer = trl_side.make_trainer(workload, model, device)
    _perturb(trainer.model)
    trainer._generate_single_turn = lambda *arguments, **options: (completions, None)
    trainer.current_gradient_accumulation_steps = 1
    prompts = dovetail_side.prompts(workload)[: workload.prompts]
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([{"prompt": p} for p in prompts for _ in range(workload.group)])
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss), _gradients(trainer.model)


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.detach().cpu() for name, parameter in model.named_parameters()}
