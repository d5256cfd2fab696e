"""What parts give back: tokens with their provenance, scores, advantages, terms of a loss."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from dovetail.errors import DataError
from dovetail.messages import Message, Task, Tasks
from dovetail.ragged import Ragged, row_index
from dovetail.sampling import Sampling

Reduction = Literal[
    "token_mean", "sequence_mean", "sequence_sum_mean", "sequence_sum_norm", "prompt_mean", "batch_mean"
]


class Origin(enum.IntEnum):
    """Where a token came from. Only SAMPLED tokens carry loss; in offline data these are the demonstrator's."""

    PROMPT = 0
    SAMPLED = 1
    TOOL = 2
    FORCED = 3


class RewardStatus(enum.IntEnum):
    """Whether a score may be used. A failed score is never a silent 0."""

    OK = 0
    INVALID = 1
    TIMEOUT = 2


@attrs.frozen
class Invalid:
    """What a reward returns for a sample that it cannot score, instead of a number."""

    reason: str


@attrs.frozen(eq=False)
class Scores:
    """A value per sequence, and whether it is one. Not as many values as statuses is a DataError."""

    values: Tensor  #: ``[B]`` float32; NaN where the status is not OK
    status: Tensor  #: ``[B]`` uint8 of :class:`RewardStatus`
    reasons: Mapping[int, str] = attrs.field(factory=dict)  #: row to reason, for the rows that are not OK

    def __attrs_post_init__(self) -> None:
        if self.values.shape != self.status.shape:
            raise DataError(f"{len(self.values)} scores need as many statuses, got {len(self.status)}")
        object.__setattr__(self, "values", self.values.masked_fill(~self.valid, float("nan")))

    @classmethod
    def ok(cls, values: Tensor) -> Scores:
        return cls(values.float(), torch.zeros(len(values), dtype=torch.uint8))

    @classmethod
    def failed(cls, rows: int, reason: str, status: RewardStatus = RewardStatus.INVALID) -> Scores:
        """All rows failed for one reason."""
        statuses = torch.full((rows,), int(status), dtype=torch.uint8)
        return cls(torch.zeros(rows), statuses, dict.fromkeys(range(rows), reason))

    @property
    def valid(self) -> Tensor:
        """``[B]`` bool, True where the score may be used."""
        return self.status == RewardStatus.OK

    def combine(self, other: Scores | float, operation: Callable[[Any, Any], Any]) -> Scores:
        """Apply arithmetic; a row is valid only if it is valid on both sides. Other rows are a DataError."""
        if not isinstance(other, Scores):
            return attrs.evolve(self, values=operation(self.values, other))
        if len(other) != len(self):
            raise DataError(f"scores of {len(self)} and of {len(other)} sequences cannot be combined")
        status = torch.where(self.valid, other.status, self.status)
        return Scores(operation(self.values, other.values), status, {**other.reasons, **self.reasons})

    def select(self, rows: Sequence[int] | Tensor) -> Scores:
        """Take rows by index or by mask, in the order given."""
        index = row_index(rows, len(self))
        reasons = {new: self.reasons[old] for new, old in enumerate(index.tolist()) if old in self.reasons}
        return Scores(self.values[index], self.status[index], reasons)

    def __len__(self) -> int:
        return len(self.values)


@attrs.frozen(eq=False)
class Generated:
    """What a generator returns: one completion per row, rows of one prompt side by side."""

    completions: Ragged  #: ``[B rows]`` int64 token ids, the stop token included
    #: same rows, float32: of each token under what it was drawn from (temperature applied, before top-k, top-p, min-p)
    logprobs: Ragged
    finish_reasons: tuple[str, ...]  #: ``stop`` or ``length`` per row


@attrs.frozen(eq=False)
class Advantages:
    """Credit per sequence ``[B]`` or per sampled token, with the value model's targets if there are any."""

    advantages: Tensor | Ragged
    returns: Ragged | None = None
    metrics: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class LossTerms:
    """Terms of a loss and how the engine is to reduce them over the whole optimizer step.

    ``token_mean`` divides by all tokens of the step; ``sequence_mean`` averages token means over sequences;
    ``sequence_sum_mean`` averages token sums; ``sequence_sum_norm`` divides token sums by ``B * norm``; ``prompt_mean``
    averages, over prompts, the mean over a prompt's tokens; ``batch_mean`` averages terms ``[B]``.
    """

    terms: Ragged | Tensor  #: per sampled token, or ``[B]`` for a loss on whole sequences
    reduction: Reduction = "token_mean"
    norm: float | None = None  #: the constant of ``sequence_sum_norm``, in tokens
    #: per token or per sequence ``[B]``; the engine averages them over all of the step, but for those that are NaN
    metrics: Mapping[str, Ragged | Tensor] = attrs.field(factory=dict)


@attrs.frozen(eq=False, slots=False)
class Rollouts:
    """A batch of sequences with the provenance of every token. Append-only: methods give new rollouts.

    What is given per row, per token or per sampled token and does not fit the rows of ``tokens`` is a DataError.
    """

    tokens: Ragged  #: ``[B rows]`` int64, whole sequences
    origin: Ragged  #: same rows, uint8 of :class:`Origin`
    groups: Tensor  #: ``[B]`` int64; rollouts of one task share a number
    tasks: Tasks  #: one task per row
    sampled_logprobs: Ragged | None = None  #: float32 per SAMPLED token, as the sampler saw it; None for offline data
    sampling: Sampling | None = None  #: how the tokens were drawn; None for offline data
    policy_version: int = 0  #: optimizer steps that the sampling policy had seen
    finish_reasons: tuple[str, ...] = ()  #: per row
    rewards: Mapping[str, Scores] = attrs.field(factory=dict)  #: by name
    steps: Ragged | None = None  #: int64, where each turn starts among a row's SAMPLED tokens; None for a single turn
    step_rewards: Ragged | None = None  #: float32, what the environment gave for each turn
    conversations: tuple[tuple[Message, ...], ...] = ()  #: all that was said, per row; empty for a single turn
    decode: Callable[[list[int]], str] | None = attrs.field(default=None, repr=False)  #: for ``texts`` and ``messages``

    def __attrs_post_init__(self) -> None:
        rows = len(self.tokens)
        if not torch.equal(self.tokens.offsets, self.origin.offsets):
            raise DataError("every token needs an origin: the rows of tokens and origin differ")
        facts = {"groups": self.groups, "tasks": self.tasks, "finish reasons": self.finish_reasons or None}
        columns: dict[str, Any] = {**facts, "rows of steps": self.steps}
        for name, column in columns.items():
            if column is not None and len(column) != rows:
                raise DataError(f"{rows} sequences need {rows} {name}, got {len(column)}")
        if self.step_rewards and not (self.steps and torch.equal(self.step_rewards.offsets, self.steps.offsets)):
            raise DataError("every turn needs a reward: the rows of steps and of their rewards differ")
        if self.sampled_logprobs is not None and not torch.equal(self.sampled_logprobs.offsets, self.sampled.offsets):
            raise DataError("every sampled token needs a log-prob: the rows of sampled tokens and log-probs differ")

    @classmethod
    def single_turn(
        cls, prompts: Ragged, generated: Generated, tasks: Sequence[Task], *, samples: int = 1, **further: Any
    ) -> Rollouts:
        """Join prompts ``[P rows]`` and their ``samples`` completions each ``[P * samples rows]``.

        ``further`` are fields of the rollouts: ``sampling``, ``policy_version``, ``decode``.
        """
        repeated = prompts.repeat(samples)
        in_turn = torch.arange(2 * len(repeated)).view(2, -1).T.flatten()  # each prompt, and its completion behind it
        both = Ragged.cat([repeated, generated.completions]).select(in_turn)
        tokens = Ragged(both.values, both.offsets[::2])
        in_prompt = tokens.positions < repeated.lengths[tokens.row_ids]
        return cls(
            tokens=tokens,
            origin=tokens.with_values(torch.where(in_prompt, Origin.PROMPT, Origin.SAMPLED).to(torch.uint8)),
            groups=torch.arange(len(prompts)).repeat_interleave(samples),
            tasks=Tasks(task for task in tasks for _ in range(samples)),
            sampled_logprobs=generated.logprobs,
            finish_reasons=generated.finish_reasons,
            **further,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _in_completion(self) -> Tensor:
        """``[N]`` bool, True from the first token of a row on that is not PROMPT."""
        seen = torch.cumsum(self.origin.values != Origin.PROMPT, 0)
        before_row = torch.cat([seen.new_zeros(1), seen])[self.origin.offsets[:-1]]
        return seen > before_row[self.origin.row_ids]

    @cached_property
    def prompts(self) -> Ragged:
        """Tokens before the policy's first."""
        return self.tokens.where(~self._in_completion)

    @cached_property
    def completions(self) -> Ragged:
        """All tokens from the policy's first on, tool and later prompt tokens included."""
        return self.tokens.where(self._in_completion)

    @cached_property
    def mask(self) -> Ragged:
        """Rows of ``completions``, bool: which of them the policy sampled."""
        return self.origin.where(self._in_completion).map(lambda origin: origin == Origin.SAMPLED)

    @cached_property
    def sampled_mask(self) -> Tensor:
        """``[N]`` bool over ``tokens.values``: the loss mask, derived from the origin."""
        return self.origin.values == Origin.SAMPLED

    @cached_property
    def sampled(self) -> Ragged:
        """The SAMPLED tokens: the rows that every per-token value of a graph is aligned with."""
        return self.tokens.where(self.sampled_mask)

    @cached_property
    def texts(self) -> list[str]:
        """Completions as text, special tokens left out."""
        if self.decode is None:
            raise DataError("these rollouts have no tokenizer, so their text cannot be read")
        return [self.decode(row) for row in self.completions.tolist()]

    @cached_property
    def messages(self) -> list[tuple[Message, ...]]:
        """All that was said: of a single turn the task's messages and the completion as the assistant's answer."""
        if self.conversations:
            return list(self.conversations)
        return [(*task.messages, Message("assistant", text)) for task, text in zip(self.tasks, self.texts, strict=True)]

    @cached_property
    def truncated(self) -> Tensor:
        """``[B]`` bool, True where the token limit cut the completion."""
        reasons = self.finish_reasons or [""] * len(self)
        return torch.tensor([reason == "length" for reason in reasons], dtype=torch.bool)

    def with_rewards(self, **rewards: Scores) -> Rollouts:
        return attrs.evolve(self, rewards={**self.rewards, **rewards})

    def to(self, device: Any) -> Rollouts:
        """Move the token data; scores and tasks stay."""
        moved = self.sampled_logprobs.to(device) if self.sampled_logprobs is not None else None
        tokens, origin = self.tokens.to(device), self.origin.to(device)
        return attrs.evolve(self, tokens=tokens, origin=origin, groups=self.groups.to(device), sampled_logprobs=moved)

    def select(self, rows: Sequence[int] | Tensor) -> Rollouts:
        """Take rows by index or by mask, in the order given."""
        index = row_index(rows, len(self))
        if torch.equal(index, torch.arange(len(self))):
            return self
        picked, ragged = index.tolist(), ("tokens", "origin", "sampled_logprobs", "steps", "step_rewards")
        taken = {name: getattr(self, name).select(index) for name in ragged if getattr(self, name) is not None}
        for name in ("finish_reasons", "conversations"):
            taken[name] = tuple(map(getattr(self, name).__getitem__, picked)) if getattr(self, name) else ()
        taken["rewards"] = {name: scores.select(index) for name, scores in self.rewards.items()}
        return attrs.evolve(self, groups=self.groups[index], tasks=Tasks(map(self.tasks.__getitem__, picked)), **taken)
