"""Rows that stages hand to one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dovetail.errors import DataError

if TYPE_CHECKING:
    from dovetail.messages import Message

Entry = Mapping[str, Any]


def prompt_of(messages: Sequence[Message]) -> Any:
    """Text if it is one message of a user, else messages."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return [message.to_chat() for message in messages]


def all_rows(entries: Iterable[Entry], step: str) -> list[Entry]:
    """What the lines of a stage came to; a DataError if it is nothing, because the next stage could not begin."""
    entries = list(entries)
    rows = [row for entry in entries for row in entry["rows"]]
    if not rows:
        reasons = ", ".join(f"{count} {name.removeprefix('left_out/')}" for name, count in left_out(entries).items())
        hint = "look at the folder of the stage; more samples, or other rewards, may help"
        raise DataError(f"{step} made no row of {len(entries)} inputs; left out: {reasons or 'nothing'}", hint=hint)
    return rows


def left_out(entries: Iterable[Entry]) -> dict[str, int]:
    """How much was left out, by reason."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update(entry["left_out"])
    return {f"left_out/{name}": count for name, count in sorted(counts.items()) if count}
