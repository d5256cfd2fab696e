"""Several batches below one another: the draws of a step, or the shares of its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.messages import Tasks
from dovetail.ragged import Ragged
from dovetail.rollouts import Rollouts, Scores


def joined(values: Sequence[Any], rows: Sequence[Tensor]) -> Any:
    """The given rows of what flows along an edge, over all draws; what has no rows is the first draw's."""
    first, count = values[0], len(rows[0])
    if isinstance(first, Mapping):
        return {key: joined([value[key] for value in values], rows) for key in first}
    has_rows = isinstance(first, Rollouts | Ragged | Scores) or (isinstance(first, Tensor) and first.ndim > 0)
    if not has_rows or len(first) != count:
        return first
    if isinstance(first, Tensor):
        return torch.cat([value[taken] for value, taken in zip(values, rows, strict=True)])
    taken = [value.select(mask) for value, mask in zip(values, rows, strict=True)]
    if isinstance(first, Ragged):
        return Ragged.cat(taken)
    return one_batch(taken) if isinstance(first, Rollouts) else one_column(taken)


def one_column(scores: Sequence[Scores]) -> Scores:
    """Scores below one another."""
    starts = torch.tensor([0, *(len(each) for each in scores)]).cumsum(0).tolist()
    reasons = {
        start + row: why for start, each in zip(starts, scores, strict=False) for row, why in each.reasons.items()
    }
    return Scores(torch.cat([each.values for each in scores]), torch.cat([each.status for each in scores]), reasons)


def one_batch(batches: Sequence[Rollouts]) -> Rollouts:
    """Rollouts below one another; groups are numbered anew, because each draw counts from 0."""
    first, several = batches[0], len(batches)
    offsets = torch.tensor([0, *(int(batch.groups.max()) + 1 if len(batch) else 0 for batch in batches)]).cumsum(0)

    def cat(name: str) -> Any:
        parts = [getattr(batch, name) for batch in batches]
        return None if parts[0] is None else Ragged.cat(parts)

    return attrs.evolve(
        first,
        tokens=cat("tokens"),
        origin=cat("origin"),
        groups=torch.cat([batches[index].groups + offsets[index] for index in range(several)]),
        tasks=Tasks(task for batch in batches for task in batch.tasks),
        sampled_logprobs=cat("sampled_logprobs"),
        finish_reasons=tuple(reason for batch in batches for reason in batch.finish_reasons),
        rewards={name: one_column([batch.rewards[name] for batch in batches]) for name in first.rewards},
        steps=cat("steps"),
        step_rewards=cat("step_rewards"),
        conversations=tuple(said for batch in batches for said in batch.conversations),
    )
