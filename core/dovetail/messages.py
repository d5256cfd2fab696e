"""Plain data between agents and environments: messages, tool calls, tasks, step results."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

Role = Literal["system", "user", "assistant", "tool"]


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

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    meta: Mapping[str, Any] = attrs.field(factory=dict)

    def to_chat(self) -> dict[str, Any]:
        """The dictionary that chat templates read; absent fields are left out."""
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            chat["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            chat["name"] = self.name
        return chat


def _as_tuple(messages: Iterable[Message]) -> tuple[Message, ...]:
    if isinstance(messages, str):
        raise TypeError(f"messages were expected, got the text {messages[:40]!r}; Task.of makes a task of a text")
    return tuple(messages)


@attrs.frozen
class Task:
    """What an episode starts from. ``answer`` and ``columns`` are for rewards; the policy never sees them."""

    id: str
    messages: tuple[Message, ...] = attrs.field(converter=_as_tuple)
    answer: Any = None
    columns: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(cls, prompt: str | Task | Sequence[Message], id: str = "") -> Task:
        """Make a task of a plain prompt or of messages; a task stays as it is."""
        if isinstance(prompt, Task):
            return prompt
        messages = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        return cls(id=id, messages=messages)


@attrs.frozen
class StepResult:
    """What an environment answers to a turn.

    ``terminated`` says that the task itself came to its end, ``truncated`` that a limit cut it; never both.

    Raises:
        ValueError: Both are True.
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
