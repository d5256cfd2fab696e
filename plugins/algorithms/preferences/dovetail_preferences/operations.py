"""What recipes of preferences compute over the whole batch, before its first optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dovetail as dt

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Agent, Ragged, Rollouts

# They are async so that they run once a step, on all of its rows, and not in every micro-batch.


@dt.op
async def sorted_references(pairs: Rollouts, logprobs: Ragged, ref_logprobs: Ragged, rewards: Any) -> Tensor:
    """``[B]``, for each pair whose ``log π(chosen) - log π(rejected)`` is the k-th smallest, the reference's k-th smallest.

    A batch without a pair gives zeros.
    """
    from dovetail_preferences.pairs import Pairs

    found = Pairs.of(rewards, pairs.groups, logprobs.lengths)
    ours, theirs = (
        (chosen - rejected) for chosen, rejected in (found.split(lp.sum()) for lp in (logprobs, ref_logprobs))
    )
    matched = theirs.clone()
    matched[ours.argsort(stable=True)] = theirs.sort().values
    return found.spread(matched)


@dt.op
async def mismatched(policy: Agent, labelled: Rollouts) -> Rollouts:
    """Each prompt with the answer to another one, cut to the policy's context.

    Fewer than two prompts are a DataError.
    """
    import torch

    from dovetail import DataError, Origin, Ragged, Rollouts

    groups = labelled.groups
    shift = int(torch.unique(groups, return_counts=True)[1].max())
    others = torch.arange(len(labelled)).roll(shift)
    if bool((groups[others] == groups).any()):
        hint = "raise batch_size, or take loss_type: apo_zero_unpaired, which needs no mismatched answers"
        raise DataError("kto compares with answers to other prompts, and the batch has too few prompts", hint=hint)
    room = policy.context
    rows, origins = [], []
    for prompt, answer in zip(labelled.prompts, labelled.completions.select(others), strict=True):
        kept = answer if room is None else answer[: room - len(prompt)]
        rows.append(torch.cat([prompt, kept]))
        origins.append([Origin.PROMPT] * len(prompt) + [Origin.SAMPLED] * len(kept))
    return Rollouts(
        tokens=Ragged.from_rows(rows, dtype=torch.int64),
        origin=Ragged.from_rows(origins, dtype=torch.uint8),
        groups=groups,
        tasks=labelled.tasks,
    )


@dt.op
async def kl_baseline(logprobs: Ragged, ref_logprobs: Ragged) -> Tensor:
    """``[B]``, everywhere the mean over rows of ``Σ (log π - log π_ref)``, not below 0."""
    return (logprobs - ref_logprobs).sum().mean().clamp(min=0).expand(len(logprobs)).clone()
