"""The prompts that a script gave, kept in the run's folder: a configuration has no place for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import structlog

from dovetail.jsonl import read_jsonl
from dovetail.messages import Message, Task, ToolCall
from dovetail_trainer.writing import write_text

_FILE = "prompts.jsonl"


def keep(run_dir: Path, prompts: Iterable[Task]) -> None:
    """Write tasks; those that JSON cannot hold leave the run without, which is told, as it cannot be resumed."""
    try:
        lines = [json.dumps(attrs.asdict(task), ensure_ascii=False) + "\n" for task in prompts]
    except TypeError as error:
        structlog.get_logger().warning("the prompts cannot be kept, so this run cannot be resumed", error=str(error))
    else:
        write_text(run_dir / _FILE, "".join(lines))


def kept(run_dir: Path) -> list[Task] | None:
    """The tasks that :func:`keep` has written, if it has."""
    path = run_dir / _FILE
    return list(read_jsonl(path, _task)) if path.exists() else None


def _task(line: Mapping[str, Any]) -> Task:
    calls = [tuple(ToolCall(**call) for call in message["tool_calls"]) for message in line["messages"]]
    spoken = zip(line["messages"], calls, strict=True)
    return Task(**{**line, "messages": [Message(**{**message, "tool_calls": made}) for message, made in spoken]})
