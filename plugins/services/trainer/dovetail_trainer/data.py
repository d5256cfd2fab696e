"""What a step sees: batches by seed and step alone, and the rows of offline recipes as rollouts with marked targets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dovetail.agents.agent import Agent
from dovetail.errors import DataError
from dovetail.jsonl import read_jsonl
from dovetail.messages import Message, Task, Tasks
from dovetail.ragged import Ragged
from dovetail.rollouts import Origin, Rollouts
from dovetail_trainer.settings import DataSettings


class Batches:
    """Batches of a sequence, in a seeded order, a new one each epoch; or of any other iterable, in its order, endlessly.

    If there is nothing in it, a DataError says so by ``name``.
    """

    def __init__(self, items: Any, size: int, seed: int, *, shuffle: bool = True, name: str = "data") -> None:
        self._items = items
        self._size, self._seed, self._shuffle, self._name = size, seed, shuffle, name
        self._epoch, self._order = -1, list[int]()
        self._stream, self._position = None if hasattr(items, "__getitem__") else self._endless(), 0
        if self._stream is None and not len(items):
            raise self._empty()

    def _empty(self) -> DataError:
        hint = "a run needs at least one task; look at the path and the filters"
        return DataError(f"{self._name} is empty", hint=hint)

    def __call__(self, step: int) -> list[Any]:
        """The batch of a step, from 0."""
        start = step * self._size
        if self._stream is None:
            return [self._item(place) for place in range(start, start + self._size)]
        if start < self._position:
            self._stream, self._position = self._endless(), 0
        skipped, self._position = start - self._position, start + self._size
        return list(itertools.islice(self._stream, skipped, skipped + self._size))

    def _item(self, place: int) -> Any:
        count = len(self._items)
        epoch, index = divmod(place, count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            order = torch.randperm(count, generator=generator) if self._shuffle else torch.arange(count)
            self._epoch, self._order = epoch, order.tolist()
        return self._items[self._order[index]]

    def _endless(self) -> Iterator[Any]:
        is_empty = False
        while not is_empty:
            is_empty = True
            for item in self._items:
                is_empty = False
                yield item
        raise self._empty()


def read_rows(settings: DataSettings) -> Sequence[Mapping[str, Any]]:
    """The rows of a data set. If it is missing, empty or broken, a DataError says where."""
    is_json = Path(settings.path).suffix in (".jsonl", ".json")
    rows = list(read_jsonl(settings.path, _checked, settings.on_broken)) if is_json else _dataset(settings)
    if not len(rows):
        raise DataError(f"{settings.path} has no rows", hint="a run needs at least one")
    _checked(rows[0])
    return rows


def _dataset(settings: DataSettings) -> Any:
    try:
        import datasets
    except ImportError as error:
        hint = 'pip install "dovetail-trainer[data]"'
        raise DataError(f"{settings.path} needs the datasets library", hint=hint) from error
    try:
        if Path(settings.path).suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=settings.path, split="train")
        return datasets.load_dataset(settings.path, split=settings.split)
    except (OSError, ValueError) as error:
        hint = "a JSONL or parquet file, or a hub name"
        raise DataError(f"{settings.path} cannot be loaded: {error}", hint=hint) from error


def _checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    _messages(row)
    return row


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The turns of a row; a DataError says which column is missing, or is not what it should be."""
    if not isinstance(row, Mapping):
        raise DataError(f"a row must be an object, got {type(row).__name__}")
    if row.get("messages"):
        try:
            return tuple(Message(message["role"], message["content"]) for message in row["messages"])
        except (TypeError, KeyError) as error:
            raise DataError("the column 'messages' must list objects with a role and a content") from error
    for name in ("prompt", "completion"):
        if name not in row:
            known = ", ".join(sorted(row)) or "none"
            hint = "give either `messages`, or `prompt` and `completion`"
            raise DataError(f"a row has no column {name!r} (it has: {known})", hint=hint)
        if not isinstance(row[name], str):
            raise DataError(f"the column {name!r} is {type(row[name]).__name__}, not text")
    return Message("user", row["prompt"]), Message("assistant", row["completion"])


def encode_rows(rows: Sequence[Mapping[str, Any]], agent: Agent) -> Rollouts:
    """Tokens of demonstrations: what the assistant said is the target, all else is prompt.

    A row that does not fit the model or teaches nothing, or whose turns the chat template rewrites, is a DataError.
    """
    tokens, origins, tasks = list[list[int]](), list[list[Origin]](), list[Task]()
    for row in rows:
        messages = _messages(row)
        pieces = list(_chat_pieces(messages, agent) if agent.tokenizer.chat_template else _pieces(messages, agent))
        tokens.append([token for piece, _ in pieces for token in piece])
        origins.append([origin for piece, origin in pieces for _ in piece])
        _check(origins[-1], agent, place=" ".join(message.content for message in messages)[:60])
        tasks.append(Task(id=str(row.get("id", len(tasks))), messages=messages[:-1]))
    return Rollouts(
        tokens=Ragged.from_rows(tokens, dtype=torch.int64),
        origin=Ragged.from_rows(origins, dtype=torch.uint8),
        groups=torch.arange(len(tokens)),
        tasks=Tasks(tasks),
        decode=agent.decode,
    )


def _pieces(messages: Sequence[Message], agent: Agent) -> Iterator[tuple[list[int], Origin]]:
    for index, message in enumerate(messages):
        ids = list(agent.tokenizer(message.content, add_special_tokens=index == 0)["input_ids"])
        is_target = message.role == "assistant"
        yield ([*ids, agent.tokenizer.eos_token_id], Origin.SAMPLED) if is_target else (ids, Origin.PROMPT)


def _chat_pieces(messages: Sequence[Message], agent: Agent) -> Iterator[tuple[list[int], Origin]]:
    done = ""
    for index in [index for index, message in enumerate(messages) if message.role == "assistant"]:
        before = agent.render_chat(messages[:index], answer=True)
        after = agent.render_chat(messages[: index + 1], answer=False)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                f"the chat template of {agent.name!r} rewrites earlier turns, so turn {index} has no fixed prompt",
                where=[f"expected it to begin with {done[-40:]!r}", f"got {before[:80]!r}"],
                hint="use one assistant turn for each row",
            )
        yield agent.encode_text(before.removeprefix(done)), Origin.PROMPT
        yield agent.encode_text(after.removeprefix(before)), Origin.SAMPLED
        done = after


def _check(origins: Sequence[Origin], agent: Agent, place: str) -> None:
    if Origin.SAMPLED not in origins:
        raise DataError("a row has no assistant turn to learn from", where=[place])
    if origins[0] == Origin.SAMPLED:
        raise DataError("a row has no prompt before its completion", where=[place])
    if agent.context is not None and len(origins) > agent.context:
        problem = f"a row has {len(origins)} tokens, and {agent.name!r} has a context of {agent.context}"
        raise DataError(problem, where=[place], hint="shorten or drop it")
