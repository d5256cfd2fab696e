"""Which tasks or rows a step sees: a function of seed and step alone, so that a resumed run sees the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from dovetail.errors import DataError


class Batches:
    """Batches of a finite sequence, in a seeded order, a new one each epoch; or of an endless stream, in its order.

    Args:
        items: A sequence, or any iterable, which is then read as a stream.
        size: Items in a batch.
        seed: Of the order.
        shuffle: False keeps the sequence's order.
        name: Of the source, for errors.

    Raises:
        DataError: There is nothing in it.
    """

    def __init__(self, items: Iterable[Any], size: int, seed: int, *, shuffle: bool = True, name: str = "data") -> None:
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
        self._name = name
        self._source = items
        self._items: Any = None
        if hasattr(items, "__getitem__"):
            self._items = items
        self._stream: Iterator[Any] | None = None
        self._position = 0
        if self._items is not None and not len(self._items):
            raise self._empty()
        self._orders: dict[int, list[int]] = {}

    def _empty(self) -> DataError:
        return DataError(
            f"{self._name} is empty", hint="a run needs at least one task; look at the path and the filters"
        )

    def __call__(self, step: int) -> list[Any]:
        """The batch of a step, from 0."""
        start = step * self._size
        if self._items is None:
            return self._from_stream(start)
        count = len(self._items)
        return [self._items[self._order(place // count)[place % count]] for place in range(start, start + self._size)]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            assert self._items is not None
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            count = len(self._items)
            order = torch.randperm(count, generator=generator).tolist() if self._shuffle else list(range(count))
            self._orders = {**{key: value for key, value in self._orders.items() if key == epoch - 1}, epoch: order}
        return self._orders[epoch]

    def _from_stream(self, start: int) -> list[Any]:
        if self._stream is None or start < self._position:
            self._stream, self._position = self._endless(), 0
        batch = list(itertools.islice(self._stream, start - self._position, start - self._position + self._size))
        self._position = start + self._size
        return batch

    def _endless(self) -> Iterator[Any]:
        while True:
            count = 0
            for count, item in enumerate(self._source, start=1):  # noqa: B007 - the count is read after the loop
                yield item
            if not count:
                raise self._empty()
