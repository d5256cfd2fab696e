"""Rows of offline recipes: JSONL, parquet or a hub dataset, read into rollouts whose targets are marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dovetail.errors import DataError
from dovetail.jsonl import read_jsonl
from dovetail.messages import Message, Task
from dovetail.ragged import Ragged
from dovetail.rollouts import Origin, Rollouts, Tasks
from dovetail.settings import DataSettings

_COLUMNS = "either `messages`, or `prompt` and `completion`"


def read_rows(settings: DataSettings) -> Sequence[Mapping[str, Any]]:
    """The rows of a data set, their columns checked.

    Raises:
        DataError: It is missing or empty, a line is broken (with its number), or a column is missing.
    """
    path = Path(settings.path)
    rows: Any = (
        list(read_jsonl(path, _checked, settings.on_broken))
        if path.suffix in (".jsonl", ".json")
        else _dataset(settings)
    )
    if not len(rows):
        raise DataError(f"{settings.path} has no rows", hint="a run needs at least one")
    check_columns(rows[0])
    return rows  # type: ignore[no-any-return]


def _checked(row: Any) -> Mapping[str, Any]:
    check_columns(row)
    return row  # type: ignore[no-any-return]


def _dataset(settings: DataSettings) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{settings.path} needs the datasets library", hint='pip install "dovetail-core[data]"'
        ) from error
    try:
        if Path(settings.path).suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=settings.path, split="train")
        return datasets.load_dataset(settings.path, split=settings.split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{settings.path} cannot be loaded: {error}", hint="a JSONL or parquet file, or a hub name"
        ) from error


def check_columns(row: Any) -> None:
    """A row needs its columns, with text in them.

    Raises:
        DataError: It has not.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"a row must be an object, got {type(row).__name__}")
    if isinstance(row.get("messages"), Sequence) and row["messages"]:
        return
    for name in ("prompt", "completion"):
        if name not in row:
            known = ", ".join(sorted(row)) or "none"
            raise DataError(f"a row has no column {name!r} (it has: {known})", hint=f"give {_COLUMNS}")
        if not isinstance(row[name], str):
            raise DataError(f"the column {name!r} is {type(row[name]).__name__}, not text")


def encode_rows(rows: Sequence[Mapping[str, Any]], agent: Any) -> Rollouts:
    """Tokens of demonstrations: what the assistant said is the target, all else is prompt.

    Raises:
        DataError: A row is too long for the model, has no target, or the chat template rewrites earlier turns.
    """
    tokens: list[list[int]] = []
    origin: list[list[int]] = []
    tasks: list[Task] = []
    for row in rows:
        messages = _messages(row)
        pieces = _chat_pieces(messages, agent) if agent.tokenizer.chat_template else _plain_pieces(messages, agent)
        ids = [token for piece, _ in pieces for token in piece]
        marks = [mark for piece, mark in pieces for _ in piece]
        _check_length(ids, marks, agent, row)
        tokens.append(ids)
        origin.append(marks)
        tasks.append(Task(id=str(row.get("id", len(tasks))), messages=messages[:-1]))
    return Rollouts(
        tokens=Ragged.from_rows(tokens, dtype=torch.int64),
        origin=Ragged.from_rows(origin, dtype=torch.uint8),
        groups=torch.arange(len(tokens)),
        tasks=Tasks(tasks),
        decode=agent.decode,
    )


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    if row.get("messages"):
        return tuple(Message(message["role"], message["content"]) for message in row["messages"])
    return Message("user", row["prompt"]), Message("assistant", row["completion"])


def _plain_pieces(messages: Sequence[Message], agent: Any) -> list[tuple[list[int], int]]:
    pieces = []
    for index, message in enumerate(messages):
        ids = agent.tokenizer(message.content, add_special_tokens=index == 0)["input_ids"]
        if message.role == "assistant":
            pieces.append(([*ids, agent.tokenizer.eos_token_id], int(Origin.SAMPLED)))
        else:
            pieces.append((list(ids), int(Origin.PROMPT)))
    return pieces


def _chat_pieces(messages: Sequence[Message], agent: Any) -> list[tuple[list[int], int]]:
    pieces: list[tuple[list[int], int]] = []
    done = ""

    def render(turns: Sequence[Message], prompt: bool) -> str:
        chat = [message.to_chat() for message in turns]
        return str(agent.tokenizer.apply_chat_template(chat, add_generation_prompt=prompt, tokenize=False))

    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before, after = render(messages[:index], True), render(messages[: index + 1], False)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                f"the chat template of {agent.name!r} rewrites earlier turns, so turn {index} has no fixed prompt",
                where=[f"expected it to begin with {done[-40:]!r}", f"got {before[:80]!r}"],
                hint="use one assistant turn for each row",
            )
        pieces.append((agent.encode_text(before[len(done) :]), int(Origin.PROMPT)))
        pieces.append((agent.encode_text(after[len(before) :]), int(Origin.SAMPLED)))
        done = after
    return pieces


def _check_length(ids: list[int], marks: list[int], agent: Any, row: Mapping[str, Any]) -> None:
    start = str(row.get("prompt") or row.get("messages"))[:60]
    if Origin.SAMPLED not in marks:
        raise DataError("a row has no assistant turn to learn from", where=[start])
    if marks[0] == Origin.SAMPLED:
        raise DataError("a row has no prompt before its completion", where=[start])
    if agent.context is not None and len(ids) > agent.context:
        raise DataError(
            f"a row has {len(ids)} tokens, and {agent.name!r} has a context of {agent.context}",
            where=[start],
            hint="shorten or drop it",
        )
