"""A key-value cache with room for the whole completion, in transformers' own cache interface."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values in a buffer allocated once; new tokens are written, never concatenated."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, capacity: int) -> None:
        super().__init__()
        self._length = keys.shape[-2]
        self._key_buffer = _with_room(keys, rows, capacity)
        self._value_buffer = _with_room(values, rows, capacity)
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


def _with_room(states: Tensor, rows: Tensor, capacity: int) -> Tensor:
    """``[P, H, L, D]`` states to ``[R, H, capacity, D]``, row ``r`` a copy of ``rows[r]``."""
    _, heads, length, width = states.shape
    buffer = states.new_empty((len(rows), heads, capacity, width))
    buffer[:, :, :length] = states[rows]
    return buffer


def shared_cache(prefilled: Cache, rows: Tensor, capacity: int) -> Cache:
    """The cache of a decode batch whose row ``r`` continues prompt ``rows[r]``."""
    return Cache(layers=[RoomyLayer(layer.keys, layer.values, rows, capacity) for layer in prefilled.layers])


def keep_rows(cache: Cache, rows: Tensor) -> None:
    for layer in cache.layers:
        layer.keep(rows)
