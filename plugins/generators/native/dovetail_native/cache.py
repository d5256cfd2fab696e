"""Keys and values of prompts, and a cache with room for whole completions, in transformers' own interface."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from dovetail import Ragged


@attrs.frozen(eq=False)
class Prefilled:
    """Prompts that the model has read, padded on the left.

    Args:
        layers: Of each layer, keys and values ``[P, H, W, D]``.
        logits: ``[P, V]`` of the next token.
        lengths: ``[P]`` int64.
    """

    layers: list[tuple[Tensor, Tensor]]
    logits: Tensor
    lengths: Tensor

    @property
    def width(self) -> int:
        return int(self.layers[0][0].shape[-2])


def prefill(model: Any, prompts: Ragged) -> Prefilled:
    """Read each prompt once, through the model's own forward."""
    device, width = prompts.values.device, int(prompts.lengths.max())
    columns = torch.arange(width, device=device) - (width - prompts.lengths[:, None])
    mask = columns >= 0
    padded = torch.zeros((len(prompts), width), dtype=torch.int64, device=device)
    padded[mask] = prompts.values.long()
    mask = None if bool(mask.all()) else mask.long()
    cache = DynamicCache()
    output = model(
        input_ids=padded, attention_mask=mask, position_ids=columns.clamp(min=0), past_key_values=cache,
        use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Prefilled(layers, output.logits[:, -1], prompts.lengths)


class Window:
    """Which columns of a cache are whose: all rows end at the same column and begin where they must.

    Args:
        lengths: ``[R]`` int64, columns of each row so far.
        width: Columns so far; at least the longest.
        room: Columns to come.

    Attributes:
        end: Columns so far.
        columns: Columns in all.
    """

    def __init__(self, lengths: Tensor, width: int, room: int) -> None:
        self._start = width - lengths
        self.end, self.columns = width, width + room

    def mask(self) -> Tensor | None:
        """``[R, columns]`` bool, False before a row begins; None if all begin at once."""
        if not bool(self._start.any()):
            return None
        return torch.arange(self.columns, device=self._start.device) >= self._start[:, None]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._start = self._start[rows]

    def admit(self, lengths: Tensor, width: int, room: int) -> None:
        """Move the end to where the longest row fits, and add rows."""
        end = max(self.end - int(self._start.min()), width)
        self._start = torch.cat([self._start + end - self.end, end - lengths])
        self.end, self.columns = end, end + room


class Room:
    """States in a buffer allocated once; new ones are written behind, never concatenated.

    Args:
        states: ``[P, H, L, D]`` of prompts.
        rows: ``[R]`` int64, the prompt of each row.
        columns: Of the buffer.
    """

    def __init__(self, states: Tensor, rows: Tensor, columns: int) -> None:
        _, heads, length, width = states.shape
        self.buffer = states.new_empty((len(rows), heads, columns, width))
        self.buffer[:, :, :length] = states[rows]

    def keep(self, rows: Tensor, moved: Tensor, end: int) -> None:
        """Drop all rows but these, of which only those at ``moved`` come from elsewhere."""
        self.buffer[moved, :, :end] = self.buffer[rows[moved], :, :end]
        self.buffer = self.buffer[: len(rows)]

    def admit(self, states: Tensor, rows: Tensor, end: int, window: Window) -> None:
        """Add rows beside those that ended at ``end``; all end where the ``window`` does."""
        old, count = self.buffer, len(self.buffer)
        # Zeros, because attention multiplies by what it does not attend to, too.
        self.buffer = old.new_zeros((count + len(rows), old.shape[1], window.columns, old.shape[3]))
        used = min(end, window.end)
        self.buffer[:count, :, window.end - used : window.end] = old[:, :, end - used : end]
        self.buffer[count:, :, window.end - states.shape[2] : window.end] = states[rows]


class RoomyLayer(DynamicLayer):
    """One layer's keys and values with room for whole completions."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, window: Window) -> None:
        super().__init__()
        self._window = window
        self._key_room, self._value_room = Room(keys, rows, window.columns), Room(values, rows, window.columns)
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._show(window.end)

    def _show(self, end: int) -> None:
        self.keys, self.values = self._key_room.buffer[:, :, :end], self._value_room.buffer[:, :, :end]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write behind the window's end, which moves when all layers have written."""
        end = self._window.end + key_states.shape[-2]
        self._key_room.buffer[:, :, self._window.end : end] = key_states
        self._value_room.buffer[:, :, self._window.end : end] = value_states
        self._show(end)
        return self.keys, self.values

    def keep(self, rows: Tensor, moved: Tensor) -> None:
        """Drop all rows but these, of which only those at ``moved`` come from elsewhere."""
        for room in (self._key_room, self._value_room):
            room.keep(rows, moved, self._window.end)
        self._show(self._window.end)

    def admit(self, keys: Tensor, values: Tensor, rows: Tensor, end: int) -> None:
        """Add rows beside those that ended at ``end``."""
        self._key_room.admit(keys, rows, end, self._window)
        self._value_room.admit(values, rows, end, self._window)
        self._show(self._window.end)


class ModelDecoder:
    """Decodes through the model's own forward and cache interface, whatever the model is made of.

    Args:
        model: A decoder-only transformers model.
        prefilled: Its prompts.
        rows: ``[R]`` int64, the prompt of each row.
        most: Tokens to come.
    """

    def __init__(self, model: Any, prefilled: Prefilled, rows: Tensor, most: int) -> None:
        self._model = model
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._places = prefilled.lengths[rows]
        self._window = Window(self._places, prefilled.width, most)
        self._layers = [RoomyLayer(keys, values, rows, self._window) for keys, values in prefilled.layers]
        self._cache = Cache(layers=self._layers)
        self._mask = self._window.mask()

    def advance(self, tokens: Tensor) -> Tensor:
        """Feed a token of each row, ``[R]``; ``[R, V]`` logits of the next."""
        mask = self._mask[:, : self._window.end + 1].long() if self._mask is not None else None
        # Rows that have ended may be past the context; any position will do for them.
        positions = self._places if self._context is None else self._places.clamp(max=self._context - 1)
        output = self._model(
            input_ids=tokens[:, None], attention_mask=mask, position_ids=positions[:, None],
            past_key_values=self._cache, use_cache=True,
        )  # fmt: skip
        self._window.end += 1
        self._places = self._places + 1
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Tensor, moved: Tensor) -> None:
        """Drop all rows but these, of which only those at ``moved`` come from elsewhere."""
        for layer in self._layers:
            layer.keep(rows, moved)
        self._window.keep(rows)
        self._places = self._places[rows]
        self._mask = self._mask[rows] if self._mask is not None else None

    def admit(self, prefilled: Prefilled, rows: Tensor, most: int) -> None:
        """Add rows of other prompts; arguments as those of the class."""
        lengths, end = prefilled.lengths[rows], self._window.end
        self._window.admit(lengths, prefilled.width, most)
        for layer, (keys, values) in zip(self._layers, prefilled.layers, strict=True):
            layer.admit(keys, values, rows, end)
        self._places = torch.cat([self._places, lengths])
        self._mask = self._window.mask()
