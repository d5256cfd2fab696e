"""The one layout for per-token data: flat values and row offsets, no padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partialmethod
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.errors import DataError


@attrs.frozen(eq=False, repr=False)
class Ragged:
    """B rows of different lengths in one flat tensor of N tokens. What does not fit the rows is a DataError.

    Arithmetic takes numbers, values per row ``[B, ...]`` (the one broadcast rule of the graph), and the same rows.
    """

    values: Tensor  #: ``[N, ...]``, the tokens of all rows one after another
    offsets: Tensor  #: ``[B + 1]`` int64, row ``i`` is ``values[offsets[i]:offsets[i + 1]]``

    __array_ufunc__ = None  # a NumPy number on the left leaves the arithmetic to us instead of taking rows apart

    def __attrs_post_init__(self) -> None:
        offsets, count = self.offsets, len(self.values)
        if offsets.dtype != torch.int64 or offsets.ndim != 1 or len(offsets) == 0:
            raise DataError(f"Ragged offsets must be int64 of shape [B + 1], got {offsets.dtype} {list(offsets.shape)}")
        if int(offsets[0]) != 0 or int(offsets[-1]) != count or bool((offsets[1:] < offsets[:-1]).any()):
            shown = offsets.tolist()[:8]
            raise DataError(f"Ragged offsets must rise from 0 to the number of values ({count}), got {shown}…")

    @classmethod
    def _trusted(cls, values: Tensor, offsets: Tensor) -> Ragged:
        """Build without the border check, which would wait for the device."""
        ragged = object.__new__(cls)
        object.__setattr__(ragged, "values", values)
        object.__setattr__(ragged, "offsets", offsets)
        return ragged

    @classmethod
    def from_rows(
        cls, rows: Iterable[Sequence[Any] | Tensor], dtype: torch.dtype | None = None, device: Any = None
    ) -> Ragged:
        """Concatenate rows, tensors or sequences of numbers."""
        tensors = [torch.as_tensor(row, dtype=dtype, device=device) for row in rows]
        if any(row.ndim == 0 for row in tensors):
            raise DataError("each row must be a sequence of numbers, got a single number")
        lengths = torch.tensor([len(row) for row in tensors], dtype=torch.int64, device=device)
        # an empty list is read as float32: where other rows say what they hold, it must not widen them
        filled = [row for row in tensors if len(row)] or tensors[:1] or [torch.empty(0, dtype=dtype, device=device)]
        return cls.from_lengths(torch.cat(filled), lengths)

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Ragged:
        """Cut flat ``values`` ``[N, ...]`` into rows of ``lengths`` ``[B]``."""
        return cls(values, lengths_to_offsets(lengths))

    @classmethod
    def from_padded(cls, padded: Tensor, mask: Tensor) -> Ragged:
        """Take the entries of ``padded`` ``[B, T, ...]`` where ``mask`` ``[B, T]`` is True, row by row."""
        return cls.from_lengths(padded[mask.bool()], mask.bool().sum(1))

    @classmethod
    def cat(cls, parts: Sequence[Ragged]) -> Ragged:
        """Stack the rows of several Ragged."""
        offsets = lengths_to_offsets(torch.cat([part.lengths for part in parts]))
        return cls._trusted(torch.cat([part.values for part in parts]), offsets)

    @property
    def lengths(self) -> Tensor:
        """``[B]`` int64, tokens in each row."""
        return self.offsets.diff()

    @property
    def row_ids(self) -> Tensor:
        """``[N]`` int64, the row that each value belongs to."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=len(self.values))

    @property
    def positions(self) -> Tensor:
        """``[N]`` int64, the place of each value in its row, from 0."""
        return torch.arange(len(self.values), device=self.offsets.device) - self.offsets[:-1][self.row_ids]

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    def __getitem__(self, row: int) -> Tensor:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a Ragged with {len(self)} rows")
        row %= len(self)
        start, end = self.offsets[row : row + 2].tolist()
        return self.values[start:end]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.split(self.values, self.lengths.tolist()))

    def tolist(self) -> list[list[Any]]:
        """Rows as Python lists."""
        return [row.tolist() for row in self]

    def with_values(self, values: Tensor) -> Ragged:
        """Give the same rows other values ``[N, ...]``."""
        if values.shape[0] != self.values.shape[0]:  # a tensor's own len() costs ten times as much
            raise DataError(f"{len(values)} values do not fit the {len(self.values)} tokens of these rows")
        return Ragged._trusted(values, self.offsets)

    def map(self, function: Callable[[Tensor], Tensor]) -> Ragged:
        """Apply ``function`` to the flat values; it must keep their number."""
        return self.with_values(function(self.values))

    def to(self, *args: Any, **kwargs: Any) -> Ragged:
        """Move or cast the values as ``Tensor.to`` does; the offsets follow to the device."""
        values = self.values.to(*args, **kwargs)
        return Ragged._trusted(values, self.offsets.to(values.device))

    def select(self, rows: Tensor | Sequence[int]) -> Ragged:
        """Take rows by index (int) or by mask (bool), in the order given."""
        rows = row_index(rows, len(self), self.offsets.device)
        lengths = self.lengths[rows]
        offsets = lengths_to_offsets(lengths)
        shift = torch.repeat_interleave(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Ragged._trusted(self.values[shift + torch.arange(len(shift), device=shift.device)], offsets)

    def where(self, mask: Tensor) -> Ragged:
        """Keep the values where ``mask`` ``[N]`` is True; rows stay, and may become empty."""
        if mask.shape != self.values.shape[:1]:
            raise DataError(f"a mask of shape {list(mask.shape)} does not fit {len(self.values)} tokens")
        return Ragged._trusted(self.values[mask.bool()], lengths_to_offsets(self.with_values(mask.bool()).sum()))

    def repeat(self, times: int) -> Ragged:
        """Repeat each row ``times`` times, copies side by side."""
        return self.select(torch.arange(len(self), device=self.offsets.device).repeat_interleave(times))

    def sum(self) -> Tensor:
        """Segment sum, ``[B, ...]``; empty rows give 0. Integers and bools are summed as int64, as torch does."""
        values = self.values if self.values.is_floating_point() else self.values.long()
        return values.new_zeros((len(self), *values.shape[1:])).index_add(0, self.row_ids, values)

    def mean(self) -> Tensor:
        """Segment mean, ``[B, ...]``; empty rows give 0."""
        total = self.sum()
        return total / _trailing(self.lengths.clamp(min=1).to(total.dtype), total)

    def max(self, empty: float = 0.0) -> Tensor:
        """Segment maximum, ``[B]``; empty rows give ``empty``."""
        out = self.values.new_full((len(self),), empty)
        return out.scatter_reduce(0, self.row_ids, self.values, "amax", include_self=False)

    def spread(self, per_row: Tensor) -> Ragged:
        """Broadcast ``per_row`` ``[B, ...]`` to every token of its row."""
        if len(per_row) != len(self):
            raise DataError(f"a value per sequence was expected: {len(self)} rows, {len(per_row)} values")
        return Ragged._trusted(per_row[self.row_ids], self.offsets)

    def to_padded(self, fill: float = 0, length: int | None = None) -> Tensor:
        """``[B, T, ...]`` padded on the right; ``T`` is ``length`` or that of the longest row."""
        longest = int(self.lengths.max()) if len(self) else 0
        width = longest if length is None else length
        if width < longest:
            raise DataError(f"a row of {longest} tokens does not fit a padded length of {width}")
        padded = self.values.new_full((len(self), width, *self.values.shape[1:]), fill)
        padded[self.row_ids, self.positions] = self.values
        return padded

    def _combine(self, operation: Callable[[Tensor, Any], Tensor], other: Any) -> Ragged:
        if isinstance(other, Ragged):
            if other.offsets is not self.offsets and not torch.equal(other.offsets, self.offsets):
                raise DataError("two Ragged with different rows cannot be combined")
            other = other.values
        elif isinstance(other, Tensor) and other.ndim:
            other = self.spread(other).values
        if isinstance(other, Tensor) and 0 < other.ndim < self.values.ndim:
            other = _trailing(other, self.values)
        return self.with_values(operation(self.values, other))

    __add__ = __radd__ = partialmethod(_combine, torch.add)
    __sub__ = partialmethod(_combine, torch.sub)
    __rsub__ = partialmethod(_combine, torch.rsub)
    __mul__ = __rmul__ = partialmethod(_combine, torch.mul)
    __truediv__ = partialmethod(_combine, torch.true_divide)
    __rtruediv__ = partialmethod(_combine, lambda mine, theirs: theirs / mine)

    detach = partialmethod(map, Tensor.detach)
    __neg__ = partialmethod(map, torch.neg)
    exp = partialmethod(map, torch.exp)

    def clamp(self, min: float | None = None, max: float | None = None) -> Ragged:
        return self.with_values(self.values.clamp(min, max))

    def __repr__(self) -> str:
        lengths = self.lengths.tolist()
        shown = ", ".join(map(str, lengths[:6])) + (", …" if len(lengths) > 6 else "")
        kind = f"{str(self.values.dtype).removeprefix('torch.')} on {self.values.device}"
        return f"Ragged({len(lengths)} rows, {len(self.values)} tokens, lengths [{shown}], {kind})"


def row_index(rows: Tensor | Sequence[int], count: int, device: Any = None) -> Tensor:
    """``[R]`` int64 indices of rows out of ``count``, given by index (int) or by a mask of as many (bool)."""
    index = torch.as_tensor(rows, device=device)
    if index.dtype == torch.bool:
        if index.shape != (count,):
            raise DataError(f"a mask of shape {list(index.shape)} does not fit {count} rows")
        return index.nonzero().squeeze(1)
    if index.is_floating_point() and len(index):
        raise DataError(f"rows are taken by index or by mask, got {str(index.dtype).removeprefix('torch.')}")
    return index.long()


def _trailing(tensor: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of size 1, so that ``tensor`` meets ``like`` from the left."""
    return tensor.reshape(*tensor.shape, *[1] * (like.ndim - tensor.ndim))


def lengths_to_offsets(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
