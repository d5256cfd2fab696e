"""What a step sees: batches by seed and step alone, and the rows of offline recipes as rollouts with marked targets."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from dovetail.agents.agent import Agent
from dovetail.errors import DataError
from dovetail.jsonl import read_jsonl
from dovetail.messages import Task, Tasks
from dovetail.ragged import Ragged
from dovetail.rollouts import Origin, Rollouts
from dovetail_trainer.layouts import Example, Layout, demonstration
from dovetail_trainer.layouts import prompt as prompt_layout
from dovetail_trainer.settings import DataSettings


class Batches:
    """Batches of a sequence, in a seeded order, a new one each epoch; or of any other iterable, in its order, endlessly.

    If there is nothing in it, a DataError says so by ``name``.
    """

    def __init__(self, items: Any, size: int, seed: int, *, shuffle: bool = True, name: str = "data") -> None:
        self._items = items
        self._size, self._seed, self._shuffle, self._name = size, seed, shuffle, name
        self._weights: torch.Tensor | None = None
        self._epoch, self._order = -1, list[int]()
        self._stream, self._position = None if hasattr(items, "__getitem__") else self._endless(), 0
        if self._stream is None and not len(items):
            raise self._empty()

    def _empty(self) -> DataError:
        hint = "a run needs at least one task; look at the path and the filters"
        return DataError(f"{self._name} is empty", hint=hint)

    @property
    def items(self) -> Sequence[Any]:
        """All that can be drawn; a DataError if they come as a stream."""
        if self._stream is not None:
            raise DataError(f"{self._name} comes as a stream, and cannot be chosen from", hint="give it as a list")
        return self._items  # type: ignore[no-any-return]

    def weigh(self, weights: torch.Tensor | None) -> None:
        """Draw each coming batch by these weights ``[len(items)]``, none twice while there are enough; None ends it.

        A weight of 0 is never drawn. Epochs then no longer count. Items that come as a stream are a DataError.
        """
        if weights is not None and len(weights) != len(self.items):
            raise DataError(f"{len(self.items)} items of {self._name} need as many weights, got {len(weights)}")
        self._weights = weights

    def _drawn(self, weights: torch.Tensor, step: int) -> list[Any]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        again = int((weights > 0).sum()) < self._size
        return [self._items[row] for row in torch.multinomial(weights, self._size, again, generator=generator).tolist()]

    def __call__(self, step: int) -> list[Any]:
        """The batch of a step, from 0."""
        if self._weights is not None:
            return self._drawn(self._weights, step)
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


def read_rows(settings: DataSettings, layout: Layout = demonstration) -> Sequence[Mapping[str, Any]]:
    """The rows of a data set. If it is missing, empty or broken, a DataError says where."""

    def checked(row: Any) -> Mapping[str, Any]:
        layout(row)
        return row  # type: ignore[no-any-return]

    is_json = Path(settings.path).suffix in (".jsonl", ".json")
    rows = list(read_jsonl(settings.path, checked, settings.on_broken)) if is_json else _dataset(settings)
    if not len(rows):
        raise DataError(f"{settings.path} has no rows", hint="a run needs at least one")
    checked(rows[0])
    return rows


def read_prompts(settings: DataSettings) -> list[Task]:
    """The prompts of a data set as tasks, their other columns beside; errors as for :func:`read_rows`."""
    rows = read_rows(settings, prompt_layout)
    examples = [(row, prompt_layout(row)[0]) for row in rows]
    return [Task(_id(row), given.messages, row.get("answer"), given.columns) for row, given in examples]


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


def encode_rows(rows: Sequence[Mapping[str, Any]], agent: Agent, layout: Layout = demonstration) -> Rollouts:
    """Tokens of rows, the examples of one row a group: the assistant's words are the target, all else is prompt.

    A row that does not fit the layout or the model, that teaches nothing, or whose turns the chat template rewrites, is
    a DataError.
    """
    examples = [(group, example) for group, row in enumerate(rows) for example in layout(row)]
    cut = _chat_pieces if agent.tokenizer.chat_template else _pieces
    pieces = [list(cut(example, agent)) for _, example in examples]
    encoded = iter(_encode([piece for several in pieces for piece in several], agent))
    tokens, origins = list[list[int]](), list[list[Origin]]()
    for (_, example), several in zip(examples, pieces, strict=True):
        parts = [(next(encoded), piece.origin) for piece in several]
        tokens.append([token for ids, _ in parts for token in ids])
        origins.append([origin for ids, origin in parts for _ in ids])
        _check(origins[-1], agent, place=" ".join(message.content for message in example.messages)[:60])
    return Rollouts(
        tokens=Ragged.from_rows(tokens, dtype=torch.int64),
        origin=Ragged.from_rows(origins, dtype=torch.uint8),
        groups=torch.tensor([group for group, _ in examples], dtype=torch.int64),
        tasks=Tasks(Task(_id(rows[group]), ex.messages[:-1], columns=ex.columns) for group, ex in examples),
        decode=agent.decode,
    )


def _id(row: Mapping[str, Any]) -> str:
    """Its own, or a digest of its content: the same in every batch and run."""
    text = json.dumps(row, sort_keys=True, default=str)
    return str(row.get("id") or hashlib.sha256(text.encode()).hexdigest()[:16])


@attrs.frozen
class _Piece:
    """Text that is tokenized alone; one that ``opens`` begins its row, and one that ``ends`` has the end token behind it."""

    text: str
    origin: Origin
    opens: bool = False
    ends: bool = False


def _encode(pieces: Sequence[_Piece], agent: Agent) -> list[list[int]]:
    """Token ids of each piece. They go to the tokenizer together: a call costs more than a short text does."""
    found: list[list[int]] = [[]] * len(pieces)
    for opening in (True, False):
        places = [place for place, piece in enumerate(pieces) if piece.opens == opening]
        encoded = agent.encode_texts([pieces[place].text for place in places], opening=opening)
        for place, ids in zip(places, encoded, strict=True):
            found[place] = [*ids, agent.tokenizer.eos_token_id] if pieces[place].ends else ids
    return found


def _pieces(example: Example, agent: Agent) -> Iterator[_Piece]:
    for index, message in enumerate(example.messages):
        is_answer = message.role == "assistant"
        is_target = is_answer and index >= example.first_target
        yield _Piece(message.content, Origin.SAMPLED if is_target else Origin.PROMPT, index == 0, is_answer)


def _chat_pieces(example: Example, agent: Agent) -> Iterator[_Piece]:
    messages, done = example.messages, ""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    for index in [index for index in answers if index >= example.first_target]:
        before = agent.render_chat(messages[:index], answer=True)
        after = agent.render_chat(messages[: index + 1], answer=False)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                f"the chat template of {agent.name!r} rewrites earlier turns, so turn {index} has no fixed prompt",
                where=[f"expected it to begin with {done[-40:]!r}", f"got {before[:80]!r}"],
                hint="use one assistant turn for each row",
            )
        yield _Piece(before.removeprefix(done), Origin.PROMPT)
        yield _Piece(after.removeprefix(before), Origin.SAMPLED)
        done = after


def _check(origins: Sequence[Origin], agent: Agent, place: str) -> None:
    if Origin.SAMPLED not in origins:
        raise DataError("a row has no assistant turn to learn from", where=[place])
    if origins[0] == Origin.SAMPLED:
        raise DataError("a row has no prompt before its completion", where=[place])
    if agent.context is not None and len(origins) > agent.context:
        problem = f"a row has {len(origins)} tokens, and {agent.name!r} has a context of {agent.context}"
        raise DataError(problem, where=[place], hint="shorten or drop it")
