"""Rollouts as plain data, one object for each sequence: for a run's folder and for files of rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from dovetail.messages import Message
from dovetail.ragged import Ragged
from dovetail.rollouts import Origin, RewardStatus, Rollouts, Scores


def sample_rows(
    rollouts: Rollouts, total: Scores | None = None, credit: Ragged | None = None
) -> Iterator[dict[str, Any]]:
    """For each sequence its prompt, completion and task, its scores with their status, and the turns of an episode."""
    decode, prompts, lengths = rollouts.decode, rollouts.prompts.tolist(), rollouts.completions.lengths.tolist()
    groups, rewards = rollouts.groups.tolist(), {name: _scores(scores) for name, scores in rollouts.rewards.items()}
    totals = total.values.tolist() if total is not None else [None] * len(rollouts)
    credits = credit.mean().tolist() if credit is not None else [None] * len(rollouts)
    for row, task in enumerate(rollouts.tasks):
        yield {
            "task": task.id,
            "group": groups[row],
            "prompt": decode(prompts[row]) if decode else "",
            "completion": rollouts.texts[row] if decode else "",
            "answer": task.answer if isinstance(task.answer, str | int | float | bool | None) else str(task.answer),
            "columns": {name: str(value) for name, value in task.columns.items()},
            "rewards": {name: given[row] for name, given in rewards.items()},
            "reward": number(totals[row]),
            "advantage": number(credits[row]),
            "finish_reason": rollouts.finish_reasons[row] if rollouts.finish_reasons else "",
            "tokens": lengths[row],
            "policy_version": rollouts.policy_version,
            **(_turns(rollouts, row) if rollouts.steps is not None else {}),
        }


def chat(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as the column `messages` of a row that recipes can learn from."""
    return [message.to_chat() for message in messages]


def _turns(rollouts: Rollouts, row: int) -> dict[str, Any]:
    """Of an episode: what was said, the reward of each turn, and the text by the origin of its tokens."""
    tokens, origin = rollouts.tokens[row].tolist(), rollouts.origin[row].tolist()
    spans = [
        (Origin(kind).name, [token for token, _ in span])
        for kind, span in itertools.groupby(zip(tokens, origin, strict=True), key=lambda pair: pair[1])
    ]
    return {
        "messages": chat(rollouts.messages[row]),
        "step_rewards": rollouts.step_rewards[row].tolist() if rollouts.step_rewards is not None else [],
        "spans": [[name, rollouts.decode(ids)] for name, ids in spans] if rollouts.decode else [],
    }


def _scores(scores: Scores) -> list[dict[str, Any]]:
    statuses = [RewardStatus(status).name for status in scores.status.tolist()]
    given = enumerate(zip(scores.values.tolist(), statuses, strict=True))
    return [
        {"value": number(value), "status": status, "reason": scores.reasons.get(row, "")}
        for row, (value, status) in given
    ]


def number(value: Any) -> float | None:
    """JSON knows no NaN and no infinity."""
    return float(value) if value is not None and math.isfinite(value) else None
