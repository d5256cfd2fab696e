"""Between agents and environments: messages, tool calls, tasks, step results, and the interface of an episode."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import attrs

from dovetail.errors import DataError, did_you_mean


class StopReason(enum.StrEnum):
    """Why an episode ended. A closed set, so that metrics can count it."""

    COMPLETED = "completed"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    CONTEXT_OVERFLOW = "context_overflow"
    PARSE_ERROR = "parse_error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ERROR = "error"


@attrs.frozen
class ToolCall:
    """A call that the policy asks for. ``arguments`` is raw JSON text, parsed as late as possible."""

    id: str
    name: str
    arguments: str


@attrs.frozen
class ToolSpec:
    """A tool that an environment offers; ``parameters`` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    meta: Mapping[str, Any] = attrs.field(factory=dict)

    def to_chat(self) -> dict[str, Any]:
        """The dictionary that chat templates read; absent fields are left out."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.tool_calls
        ]
        optional = {"tool_calls": calls or None, "tool_call_id": self.tool_call_id, "name": self.name}
        present = {key: value for key, value in optional.items() if value is not None}
        return {"role": self.role, "content": self.content, **present}


def _as_tuple(messages: Iterable[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    if isinstance(messages, str):
        raise TypeError(f"messages were expected, got the text {messages[:40]!r}; Task.of makes a task of a text")
    return tuple(Message(**message) if isinstance(message, Mapping) else message for message in messages)


@attrs.frozen
class Task:
    """What an episode starts from. ``answer`` and ``columns`` are for rewards; the policy never sees them."""

    id: str
    messages: tuple[Message, ...] = attrs.field(converter=_as_tuple)
    answer: Any = None
    columns: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(cls, prompt: str | Task | Sequence[Message | Mapping[str, Any]], id: str = "") -> Task:
        """Make a task of a plain prompt or of messages, which may be ``{role: …, content: …}``; a task stays."""
        if isinstance(prompt, Task):
            return prompt
        return cls(id, [Message("user", prompt)] if isinstance(prompt, str) else prompt)


class Tasks(Sequence[Task]):
    """The tasks of a batch, one per row. ``tasks[name]`` is a column: ``id``, ``answer`` or one that all tasks have."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tuple(tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, key: Any) -> Any:
        return [_column(task, key) for task in self] if isinstance(key, str) else self._tasks[key]


def _column(task: Task, name: str) -> Any:
    columns = {**task.columns, "id": task.id, "answer": task.answer}
    if name not in columns:
        raise DataError(f"task {task.id!r} has no column {name!r}", hint=did_you_mean(name, columns))
    return columns[name]


@attrs.frozen
class StepResult:
    """What an environment answers to a turn.

    ``terminated`` says that the task itself came to its end, ``truncated`` that a limit cut it; both is a ValueError.
    """

    messages: tuple[Message, ...] = attrs.field(default=(), converter=_as_tuple)
    reward: float = 0.0
    reward_components: Mapping[str, float] = attrs.field(factory=dict)
    terminated: bool = False
    truncated: bool = False
    stop_reason: StopReason | None = None
    info: Mapping[str, Any] = attrs.field(factory=dict)
    next_agent: str = "agent"

    def __attrs_post_init__(self) -> None:
        if self.terminated and self.truncated:
            raise ValueError("an episode is either terminated or truncated, not both")


@runtime_checkable
class Environment(Protocol):
    """One episode. Tokens live outside: an environment reads and writes messages."""

    tools: Sequence[ToolSpec]
    agents: Sequence[str]

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin the episode; the same seed and task give the same one."""

    async def step(self, action: Message) -> StepResult:
        """Answer the policy's turn. After the end it raises RuntimeError."""

    async def close(self) -> None:
        """Give back processes and files. May be called twice."""


class SyncEnvironment:
    """Base for authors of blocking environments: write ``on_reset`` and ``on_step``, which run in a thread."""

    tools: Sequence[ToolSpec] = ()
    agents: Sequence[str] = ("agent",)
    _ended = True

    def on_reset(self, seed: int, task: Task | None) -> StepResult:
        """Begin the episode."""
        raise TypeError(f"{type(self).__name__} must define on_reset(seed, task)")

    def on_step(self, action: Message) -> StepResult:
        """Answer a turn."""
        raise TypeError(f"{type(self).__name__} must define on_step(action)")

    def on_close(self) -> None:
        """Give back what the episode holds; nothing by default."""

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        self._ended = True
        return self._told(await asyncio.to_thread(self.on_reset, seed, task))

    async def step(self, action: Message) -> StepResult:
        if self._ended:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        return self._told(await asyncio.to_thread(self.on_step, action))

    def _told(self, result: StepResult) -> StepResult:
        self._ended = result.terminated or result.truncated
        return result

    async def close(self) -> None:
        self._ended = True
        await asyncio.to_thread(self.on_close)
