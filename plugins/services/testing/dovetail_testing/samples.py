"""Small real data for checks: rollouts with ragged rows, and a tiny agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dovetail.messages import Message, Task, Tasks
from dovetail.ragged import Ragged
from dovetail.rollouts import Generated, Rollouts
from dovetail.sampling import Sampling

LENGTHS = (5, 1, 12, 0, 3, 7, 7, 40)


def tiny_rollouts(
    *,
    lengths: Sequence[int] = LENGTHS,
    group_size: int = 4,
    seed: int = 0,
    columns: Sequence[dict[str, Any]] | None = None,
) -> Rollouts:
    """Random printable completions of the given lengths.

    Args:
        lengths: Tokens of each completion; a multiple of ``group_size`` of them.
        group_size: Completions for each prompt.
        seed: Of the tokens.
        columns: Columns of each task.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(97, 123, (length,), generator=generator) for length in lengths]
    count = len(lengths) // group_size
    prompts = Ragged.from_rows([torch.randint(65, 91, (3 + row,), generator=generator) for row in range(count)])
    completions = Ragged.from_rows(rows, dtype=torch.int64)
    logprobs = completions.with_values(-torch.rand(len(completions.values), generator=generator) - 0.01)
    reasons = tuple("length" if row % 3 == 2 else "stop" for row in range(len(lengths)))
    tasks = [
        Task(str(row), (Message("user", f"question {row}"),), answer=str(row), columns=(columns or [{}] * count)[row])
        for row in range(count)
    ]
    return Rollouts.single_turn(
        prompts,
        Generated(completions, logprobs, reasons),
        Tasks(tasks),
        samples=group_size,
        sampling=Sampling(),
        decode=lambda tokens: "".join(map(chr, tokens)),
    )


def tiny_agent(**options: Any) -> Any:
    """A tiny local agent: see :meth:`dovetail.Agent.tiny`."""
    from dovetail.agents.agent import Agent

    return Agent.tiny(**{"hidden": 16, "layers": 1, "heads": 2, "context": 64, **options})
