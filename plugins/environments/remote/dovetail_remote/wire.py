"""Between dovetail's values and what travels. Values keep their types; tuples become lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dovetail import Message, StepResult, StopReason, Task, ToolCall, ToolSpec
from dovetail_remote import environments_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable


def to_json(value: Any, what: str) -> str:
    """The text of a value; a TypeError names what would arrive as something else."""
    if isinstance(value, Mapping) and not value:
        return ""
    _check(value, what)
    return json.dumps(value, ensure_ascii=False, default=dict)


def _check(value: Any, what: str) -> None:
    # json.dumps would turn the keys of a mapping into texts without a word.
    if value is None or isinstance(value, str | int | float | bool):
        return
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        for key, inner in value.items():
            _check(inner, f"{what}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check(inner, f"{what}[{index}]")
    else:
        raise TypeError(f"{what} cannot travel: {type(value).__name__} {value!r:.60} is no JSON")


def from_json(text: str, empty: Any = None) -> Any:
    return json.loads(text) if text else empty


def message_out(message: Message) -> pb.Message:
    return pb.Message(
        role=message.role,
        content=message.content,
        tool_calls=[pb.ToolCall(id=c.id, name=c.name, arguments=c.arguments) for c in message.tool_calls],
        tool_call_id=message.tool_call_id,
        name=message.name,
        meta_json=to_json(message.meta, "meta"),
    )


def message_in(message: pb.Message) -> Message:
    return Message(
        message.role,
        message.content,
        tuple(ToolCall(c.id, c.name, c.arguments) for c in message.tool_calls),
        message.tool_call_id if message.HasField("tool_call_id") else None,
        message.name if message.HasField("name") else None,
        from_json(message.meta_json, {}),
    )


def task_out(task: Task) -> pb.Task:
    return pb.Task(
        id=task.id,
        messages=map(message_out, task.messages),
        answer_json=to_json(task.answer, f"answer of the task {task.id!r}"),
        columns_json=to_json(task.columns, f"columns of the task {task.id!r}"),
    )


def task_in(task: pb.Task) -> Task:
    messages = tuple(map(message_in, task.messages))
    return Task(task.id, messages, from_json(task.answer_json, {}), from_json(task.columns_json, {}))


def result_out(result: StepResult) -> pb.StepResult:
    return pb.StepResult(
        messages=map(message_out, result.messages),
        reward=result.reward,
        reward_components=result.reward_components,
        terminated=result.terminated,
        truncated=result.truncated,
        stop_reason=None if result.stop_reason is None else str(result.stop_reason),
        info_json=to_json(result.info, "info"),
        next_agent=result.next_agent,
    )


def result_in(result: pb.StepResult) -> StepResult:
    return StepResult(
        messages=tuple(map(message_in, result.messages)),
        reward=result.reward,
        reward_components=dict(result.reward_components),
        terminated=result.terminated,
        truncated=result.truncated,
        stop_reason=StopReason(result.stop_reason) if result.HasField("stop_reason") else None,
        info=from_json(result.info_json, {}),
        next_agent=result.next_agent,
    )


def tools_out(tools: Iterable[ToolSpec]) -> list[pb.ToolSpec]:
    return [
        pb.ToolSpec(name=t.name, description=t.description, parameters_json=to_json(t.parameters, "parameters"))
        for t in tools
    ]


def tools_in(tools: Iterable[pb.ToolSpec]) -> tuple[ToolSpec, ...]:
    return tuple(ToolSpec(t.name, t.description, from_json(t.parameters_json, {})) for t in tools)
