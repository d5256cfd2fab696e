"""Scenarios from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from dovetail import DataError, Message, Task
from dovetail.jsonl import read_jsonl


def tasks_of(path: str, split: str, held_out: float, brief: str | None) -> list[Task]:
    """The tasks of a split; the policy sees their messages alone."""
    rows = list(read_jsonl(path, _row))
    if not rows:
        raise DataError(f"{path} has no scenarios")
    system = [Message("system", brief)] if brief is not None else []
    tasks = []
    for number, row in enumerate(rows):
        if _split(row, held_out) == split:
            columns = {name: value for name, value in row.items() if name != "answer"}
            messages = (*system, Message("user", row["opening"]))
            tasks.append(Task(f"{split}-{number}", messages, row.get("answer"), columns))
    return tasks


def _row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("opening", "scenario"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{name} is {row[name]!r:.40}, no text")
    return row


def _split(row: Mapping[str, Any], held_out: float) -> str:
    text = f"{row['opening']}\n{row['scenario']}"
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return "test" if place < held_out else "train"
