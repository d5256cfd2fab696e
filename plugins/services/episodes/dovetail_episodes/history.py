"""The conversations of a batch between two steps of a structured rollout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.errors import DataError
from dovetail.messages import Message, Task, Tasks, ToolCall
from dovetail.ragged import Ragged
from dovetail.rollouts import Generated, Origin, Rollouts
from dovetail.sampling import Sampling
from dovetail_episodes.calls import Format, parse_calls
from dovetail_episodes.conversation import Conversation
from dovetail_episodes.rendering import Renderer

_GOLDEN = 0x9E3779B97F4A7C15


@attrs.define(eq=False)
class History:
    """What has been said in each row. A step copies it before it goes on, so that several may go on from one."""

    talks: list[Conversation]
    tasks: Tasks  #: one for each row
    groups: Tensor  #: ``[B]`` int64
    facts: Mapping[str, Any]  #: further fields of the rollouts
    context: int | None  #: tokens that the model can read
    open: list[bool]  #: which rows go on
    turns: int = 0
    calls: list[tuple[ToolCall, ...]] = attrs.field(factory=list)  #: of the last turn
    texts: list[str] = attrs.field(factory=list)  #: of the last turn, empty in rows that had ended

    @classmethod
    def begun(cls, agent: Any, prompts: Iterable[Any], samples: int, sampling: Sampling) -> History:
        """``samples`` conversations for each prompt; a prompt that leaves no room for a turn is a DataError."""
        tasks = [Task.of(prompt, id=str(row)) for row, prompt in enumerate(prompts)]
        stops, rows = frozenset(agent.stop_tokens(sampling)), range(len(tasks))
        talks = [Conversation(Renderer(agent), stops) for _ in rows for _ in range(samples)]
        for row, talk in enumerate(talks):
            talk.hear(tasks[row // samples].messages)
            if agent.context is not None and len(talk.tokens) >= agent.context:
                length, task = len(talk.tokens), tasks[row // samples]
                problem = (
                    f"the prompt of task {task.id!r} has {length} tokens, and the model a context of {agent.context}"
                )
                raise DataError(problem, hint="shorten or filter the prompts")
        return cls(
            talks=talks,
            tasks=Tasks(task for task in tasks for _ in range(samples)),
            groups=torch.arange(len(tasks)).repeat_interleave(samples),
            facts={"sampling": sampling, "policy_version": agent.version, "decode": agent.decode},
            context=agent.context,
            open=[True] * len(talks),
        )

    def told(self, responses: Sequence[Any]) -> History:
        """A copy in which each row has heard its response; a row without one has ended.

        Raises:
            DataError: There are not as many responses as rows, or one is no message.
        """
        if not isinstance(responses, Sequence) or len(responses) != len(self.talks):
            count = len(responses) if isinstance(responses, Sequence) else type(responses).__name__
            problem = f"{len(self.talks)} conversations need as many responses, got {count}"
            raise DataError(problem, hint="give a list with one entry for each row, None where the row ends")
        told = attrs.evolve(self, talks=[_copied(talk) for talk in self.talks], open=[False] * len(self.talks))
        for row, response in enumerate(responses):
            messages = _as_messages(response, self.calls[row], row) if self.open[row] else []
            if messages:
                talk = told.talks[row]
                talk.hear(messages)
                told.open[row] = self.context is None or len(talk.tokens) < self.context
                if not told.open[row]:
                    talk.unhear()
                    talk.is_cut = True
        return told

    def take_turn(self, agent: Any, samples: int, sampling: Sampling, seed: int, call_format: Format) -> None:
        """Let the policy speak in the rows that go on."""
        rows = [row for row, is_open in enumerate(self.open) if is_open]
        numbers = torch.Generator().manual_seed((seed + self.turns * _GOLDEN) % 2**62)
        seeds = torch.randint(0, 2**62, (len(self.talks),), generator=numbers)[rows]
        self.calls, self.texts = [()] * len(self.talks), [""] * len(self.talks)
        self.turns += 1
        if not rows:
            return
        # At the first turn the samples of a prompt share it; later, no two rows are alike.
        shared = samples if self.turns == 1 else 1
        prompts = Ragged.from_rows([self.talks[row].tokens for row in rows[::shared]], dtype=torch.int64)
        drawn: Generated = agent.generate(prompts, shared, sampling, seeds)
        for row, tokens, logprobs in zip(rows, drawn.completions.tolist(), drawn.logprobs.tolist(), strict=True):
            said = self.talks[row].say(tokens, logprobs)
            parsed = parse_calls(said.content, call_format)
            self.calls[row], self.texts[row] = parsed.calls, said.content

    def turn(self) -> Rollouts:
        """The last turn alone, with all before it as its prompt."""
        sampled = [len(talk.logprobs) - talk.turns[-1] if len(talk.turns) == self.turns else 0 for talk in self.talks]
        lengths = torch.tensor([len(talk.tokens) for talk in self.talks])
        tokens = Ragged.from_rows([talk.tokens for talk in self.talks], dtype=torch.int64)
        spoken = tokens.positions >= (lengths - torch.tensor(sampled))[tokens.row_ids]
        origin = torch.where(spoken, int(Origin.SAMPLED), int(Origin.PROMPT)).to(torch.uint8)
        logprobs = [
            talk.logprobs[len(talk.logprobs) - count :] for talk, count in zip(self.talks, sampled, strict=True)
        ]
        return self._rollouts(tokens, tokens.with_values(origin), logprobs)

    def whole(self, rewards: Mapping[int, Tensor]) -> Rollouts:
        """All turns; ``rewards`` ``[B]`` by turn."""
        by_turn = [
            [float(rewards[turn][row]) if turn in rewards else 0.0 for turn in range(len(talk.turns))]
            for row, talk in enumerate(self.talks)
        ]
        return attrs.evolve(
            self._rollouts(
                Ragged.from_rows([talk.tokens for talk in self.talks], dtype=torch.int64),
                Ragged.from_rows([talk.origin for talk in self.talks], dtype=torch.uint8),
                [talk.logprobs for talk in self.talks],
            ),
            steps=Ragged.from_rows([talk.turns for talk in self.talks], dtype=torch.int64),
            step_rewards=Ragged.from_rows(by_turn, dtype=torch.float32) if rewards else None,
            conversations=tuple(tuple(talk.messages) for talk in self.talks),
        )

    def _rollouts(self, tokens: Ragged, origin: Ragged, logprobs: Sequence[Sequence[float]]) -> Rollouts:
        return Rollouts(
            tokens=tokens,
            origin=origin,
            groups=self.groups,
            tasks=self.tasks,
            sampled_logprobs=Ragged.from_rows(logprobs, dtype=torch.float32),
            finish_reasons=tuple("length" if talk.is_cut else "stop" for talk in self.talks),
            **self.facts,
        )


def _copied(talk: Conversation) -> Conversation:
    lists: dict[str, Any] = {
        name: list(getattr(talk, name)) for name in ("messages", "tokens", "origin", "logprobs", "turns", "rewards")
    }
    return attrs.evolve(talk, **lists)


def _as_messages(response: Any, calls: Sequence[ToolCall], row: int) -> list[Message]:
    """Texts answer the row's calls in their order or, if it made none, speak as the user."""
    several = [] if response is None else [response] if isinstance(response, str | Message) else list(response)
    messages = []
    for place, each in enumerate(several):
        if isinstance(each, str):
            call = calls[min(place, len(calls) - 1)] if calls else None
            role = ("tool", call.id, call.name) if call else ("user", None, None)
            each = Message(role[0], each, tool_call_id=role[1], name=role[2])  # type: ignore[arg-type]
        if not isinstance(each, Message):
            raise DataError(f"a response is a text or a Message, got {type(each).__name__} for row {row}")
        messages.append(each)
    return messages
