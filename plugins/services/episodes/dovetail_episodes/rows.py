"""From played episodes to rollouts and metrics: a row for each agent of an episode that has spoken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from dovetail.messages import StopReason, Tasks
from dovetail.ragged import Ragged
from dovetail.rollouts import Origin, RewardStatus, Rollouts, Scores
from dovetail_episodes.conversation import Conversation
from dovetail_episodes.episode import Episode
from dovetail_episodes.rendering import Renderer


def as_rollouts(episodes: Sequence[Episode], samples: int, label: str, unheard: list[int], **facts: Any) -> Rollouts:
    """The rollouts of ``episodes``, the samples of a task side by side.

    Args:
        episodes: In the order of their rows.
        samples: Of each task.
        label: Of the environment's reward; its components are ``<label>.<component>``.
        unheard: Tokens that stand for an episode that failed before it had any.
        facts: Further fields of the rollouts.
    """
    rows = [(episode, name, conversation) for episode in episodes for name, conversation in _heard(episode)]
    talks = [conversation for _, _, conversation in rows]
    sampled = Ragged.from_rows([talk.logprobs for talk in talks], dtype=torch.float32)
    agents = {name: place for place, name in enumerate(dict.fromkeys(name for _, name, _ in rows))}
    groups = [episode.row // samples * len(agents) + agents[name] for episode, name, _ in rows]
    components = {name for episode in episodes for name in episode.components}
    totals = {label: [sum(talk.rewards) for talk in talks]}
    totals |= {f"{label}.{name}": [episode.components[name] for episode, _, _ in rows] for name in sorted(components)}
    tokens = [talk.tokens or unheard for talk in talks]
    return Rollouts(
        tokens=Ragged.from_rows(tokens, dtype=torch.int64),
        origin=Ragged.from_rows([talk.origin or [Origin.PROMPT] * len(unheard) for talk in talks], dtype=torch.uint8),
        groups=torch.tensor(groups, dtype=torch.int64),
        tasks=Tasks(_task(episode, name, len(agents)) for episode, name, _ in rows),
        sampled_logprobs=sampled,
        finish_reasons=tuple("length" if _is_cut(episode, talk) else "stop" for episode, _, talk in rows),
        rewards={name: _scores([episode for episode, _, _ in rows], values) for name, values in totals.items()},
        steps=Ragged.from_rows([talk.turns for talk in talks], dtype=torch.int64),
        step_rewards=Ragged.from_rows([talk.rewards for talk in talks], dtype=torch.float32),
        conversations=tuple(tuple(talk.messages) for talk in talks),
        **facts,
    )


def metrics_of(episodes: Sequence[Episode], batches: Sequence[int]) -> dict[str, float]:
    """Means over episodes: turns, tool calls, the share of each reason to stop; and turns for each call of the policy."""
    count = len(episodes)
    reasons = Counter(episode.stop_reason for episode in episodes)
    return {
        "turns": sum(episode.counts["turns"] for episode in episodes) / count,
        "tool_calls": sum(episode.counts["tool_calls"] for episode in episodes) / count,
        "batch": sum(batches) / max(1, len(batches)),
        **{f"stop/{reason}": reasons[reason] / count for reason in StopReason if reasons[reason]},
    }


def _heard(episode: Episode) -> list[tuple[str, Conversation]]:
    """The agents that have spoken, or, in an episode that failed before, one that has not."""
    spoken = [(name, talk) for name, talk in episode.conversations.items() if talk.turns]
    return spoken or [next(iter(episode.conversations.items()), ("agent", Conversation(Renderer(None), frozenset())))]


def _task(episode: Episode, name: str, agents: int) -> Any:
    columns = {**episode.task.columns, "agent": name}
    return episode.task if agents == 1 else attrs.evolve(episode.task, columns=columns)


def _is_cut(episode: Episode, talk: Conversation) -> bool:
    return episode.is_truncated or talk.is_cut


def _scores(episodes: Sequence[Episode], values: Sequence[float]) -> Scores:
    status = torch.tensor([int(episode.status) for episode in episodes], dtype=torch.uint8)
    reasons = {row: episode.reason for row, episode in enumerate(episodes) if episode.status != RewardStatus.OK}
    return Scores(torch.tensor(values, dtype=torch.float32), status, reasons)
