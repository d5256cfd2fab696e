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
        mask: ``[P, W]`` int64, 0 where there is padding; None if there is none.
        lengths: ``[P]`` int64.
    """

    layers: list[tuple[Tensor, Tensor]]
    logits: Tensor
    mask: Tensor | None
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
    return Prefilled(layers, output.logits[:, -1], mask, prompts.lengths)


class RoomyLayer(DynamicLayer):
    """One layer's keys and values in a buffer allocated once; new tokens are written, never concatenated."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, capacity: int) -> None:
        super().__init__()
        self._length = keys.shape[-2]
        self._key_buffer = with_room(keys, rows, capacity)
        self._value_buffer = with_room(values, rows, capacity)
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._show()

    def _show(self) -> None:
        self.keys = self._key_buffer[:, :, : self._length]
        self.values = self._value_buffer[:, :, : self._length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        end = self._length + key_states.shape[-2]
        self._key_buffer[:, :, self._length : end] = key_states
        self._value_buffer[:, :, self._length : end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._key_buffer = self._key_buffer[rows]
        self._value_buffer = self._value_buffer[rows]
        self._show()


def with_room(states: Tensor, rows: Tensor, capacity: int) -> Tensor:
    """``[P, H, L, D]`` states to ``[R, H, capacity, D]``, row ``r`` a copy of ``rows[r]``."""
    _, heads, length, width = states.shape
    buffer = states.new_empty((len(rows), heads, capacity, width))
    buffer[:, :, :length] = states[rows]
    return buffer


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
        capacity = prefilled.width + most
        self._cache = Cache(layers=[RoomyLayer(keys, values, rows, capacity) for keys, values in prefilled.layers])
        self._width = prefilled.width
        self._lengths = prefilled.lengths[rows]
        self._mask = None
        if prefilled.mask is not None:
            room = prefilled.mask.new_ones((len(rows), most))
            self._mask = torch.cat([prefilled.mask[rows], room], 1)

    def advance(self, tokens: Tensor, step: int) -> Tensor:
        """Feed ``tokens`` ``[R]``, the ``step``-th of their completions; ``[R, V]`` logits of the next."""
        mask = self._mask[:, : self._width + step + 1] if self._mask is not None else None
        # Rows past their end may also be past the context; any position will do for them.
        positions = self._lengths + step
        if self._context is not None:
            positions = positions.clamp(max=self._context - 1)
        output = self._model(
            input_ids=tokens[:, None], attention_mask=mask, position_ids=positions[:, None],
            past_key_values=self._cache, use_cache=True,
        )  # fmt: skip
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        for layer in self._cache.layers:
            layer.keep(rows)
        self._lengths = self._lengths[rows]
        self._mask = self._mask[rows] if self._mask is not None else None
