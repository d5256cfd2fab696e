"""Decoding of Llama's block, shared by Llama, Mistral, Qwen2 and Qwen3, in few operations and with shared prompts.

transformers' own forward spends more time between operations than in them when a batch takes one token at a time, and
gives every sample of a prompt its own copy of the prompt's keys and values. Here the samples of a prompt attend to one
copy (Juravsky et al. 2024, arXiv 2402.05099), and the two attentions, to the prompt and to the own tokens, are joined
by their normalisers.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dovetail_native.cache import ModelDecoder, Prefilled, Room, Window, prefill
from dovetail_native.threads import reading

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
SHARED_FROM = 64  # tokens of a prompt; below, a copy for each row costs less than a second attention

_trusted: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def decodes(model: Any) -> bool:
    """Whether this module's decoding gives the model's own logits; each model is tried once."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal.config
    windowed = any("full" not in kind for kind in getattr(config, "layer_types", None) or ())
    rope = (getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}).get("rope_type")
    if type(causal).__name__ not in FAMILIES or windowed or rope in ("dynamic", "longrope"):
        return False
    if getattr(config, "sliding_window", None) and "layer_types" not in config.to_dict():
        return False
    if any(module._forward_hooks or module._forward_pre_hooks for module in causal.modules()):
        return False
    if model not in _trusted:
        _trusted[model] = _agrees(model, causal)
    return _trusted[model]


def _agrees(model: Any, causal: Any) -> bool:
    """Compare one step with the model's own forward, with and without sharing, on prompts of two lengths."""
    from dovetail import Ragged

    device = next(causal.parameters()).device
    vocabulary = causal.config.vocab_size
    prompts = Ragged.from_rows([torch.arange(5) % vocabulary, torch.arange(1, 4) % vocabulary]).to(device)
    rows = torch.tensor([0, 0, 1], device=device)
    tokens = torch.tensor([0, 1, 2], device=device) % vocabulary
    prefilled = prefill(model, prompts)
    expected = ModelDecoder(model, prefilled, rows, 1).advance(tokens).float()
    tolerance = 1e-3 if expected.dtype == torch.float32 and prefilled.logits.dtype == torch.float32 else 0.1
    found = (BlockDecoder(model, prefilled, rows, 1, shared_from=limit).advance(tokens) for limit in (1, 1000))
    return all(torch.allclose(logits.float(), expected, atol=tolerance, rtol=tolerance) for logits in found)


class BlockDecoder:
    """As :class:`~dovetail_native.cache.ModelDecoder`, for models made of Llama's blocks.

    Args:
        model: One that :func:`decodes` accepts.
        prefilled: Its prompts.
        rows: ``[R]`` int64, the prompt of each row.
        most: Tokens to come.
        shared_from: Prompts of at least this width are attended to where they lie, without a copy for each row.
    """

    def __init__(
        self, model: Any, prefilled: Prefilled, rows: Tensor, most: int, *, shared_from: int = SHARED_FROM
    ) -> None:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._body, self._head = causal.model, causal.lm_head
        self._places = prefilled.lengths[rows]
        self._prompts = _Prompts(prefilled, rows) if prefilled.width >= shared_from else None
        self._window = Window(*self._own(prefilled, rows), most)
        self._blocks = [
            _Block(layer, keys, values, rows, self._window, self._prompts)
            for layer, (keys, values) in zip(self._body.layers, prefilled.layers, strict=True)
        ]
        self._lay_out(prefilled.logits)

    def _own(self, prefilled: Prefilled, rows: Tensor) -> tuple[Tensor, int]:
        """What of a prompt lies in the row's own cache: its length, and the columns of all."""
        lengths = prefilled.lengths[rows]
        return (lengths, prefilled.width) if self._prompts is None else (torch.zeros_like(lengths), 0)

    def _lay_out(self, like: Tensor) -> None:
        """Tables of rotations for all places to come, and the biases of the rows."""
        last = int(self._places.max()) + self._window.columns - self._window.end
        cos, sin = self._body.rotary_emb(like, torch.arange(last, device=self._places.device)[None])
        half = sin.shape[-1] // 2
        self._cos, self._sin = (
            cos[0].to(like.dtype),
            torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1).to(like.dtype),
        )
        self._bias = _bias(self._window.mask(), like.dtype)

    def advance(self, tokens: Tensor) -> Tensor:
        """Feed a token of each row, ``[R]``; ``[R, V]`` logits of the next."""
        hidden = self._body.embed_tokens(tokens)
        # Rows that have ended may be past the last place; any will do for them.
        places = self._places.clamp(max=len(self._cos) - 1)
        rotation = self._cos[places][:, None], self._sin[places][:, None]
        self._window.end += 1
        bias = self._bias[..., : self._window.end] if self._bias is not None else None
        for block in self._blocks:
            hidden = block.advance(hidden, rotation, bias)
        self._places = self._places + 1
        logits: Tensor = self._head(_rms_norm(hidden, self._body.norm))
        return logits

    def keep(self, rows: Tensor, moved: Tensor) -> None:
        """Drop all rows but these, of which only those at ``moved`` come from elsewhere."""
        self._places = self._places[rows]
        self._bias = self._bias[rows] if self._bias is not None else None
        self._window.keep(rows)
        kept = self._prompts.keep(rows) if self._prompts is not None else None
        for block in self._blocks:
            block.keep(rows, moved, kept)

    def admit(self, prefilled: Prefilled, rows: Tensor, most: int) -> None:
        """Add rows of other prompts; arguments as those of the class."""
        end = self._window.end
        self._window.admit(*self._own(prefilled, rows), most)
        if self._prompts is not None:
            self._prompts.admit(prefilled, rows)
        for block, (keys, values) in zip(self._blocks, prefilled.layers, strict=True):
            block.admit(keys, values, rows, end)
        self._places = torch.cat([self._places, prefilled.lengths[rows]])
        self._lay_out(prefilled.logits)


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """``[R, 1, 1, W]``, minus infinity where the mask is False."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)[:, None, None]


class _Prompts:
    """Which rows attend to which prompt: a grid of prompts and places, some of them empty."""

    def __init__(self, prefilled: Prefilled, rows: Tensor) -> None:
        self._rows, self._lengths, self.width = rows, prefilled.lengths, prefilled.width
        self._lay_out()

    def _lay_out(self) -> None:
        counts = torch.bincount(self._rows)
        self.count, self.most = len(counts), int(counts.max())
        before = counts.cumsum(0) - counts
        order = torch.argsort(self._rows, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device) - before[self._rows[order]]
        place += self._rows * self.most
        straight = self.count * self.most == len(place) and bool(
            (order == torch.arange(len(order), device=order.device)).all()
        )
        self._place = None if straight else place
        columns = torch.arange(self.width, device=order.device) >= self.width - self._lengths[:, None]
        self.bias = None if bool(columns.all()) else _bias(columns, torch.float32)

    def keep(self, rows: Tensor) -> Tensor:
        """Drop all rows but these; gives the prompts that still have rows."""
        kept, self._rows = torch.unique(self._rows[rows], return_inverse=True)
        self._lengths = self._lengths[kept]
        self._lay_out()
        return kept

    def admit(self, prefilled: Prefilled, rows: Tensor) -> None:
        """Add prompts and their rows."""
        self._rows = torch.cat([self._rows, rows + self.count])
        self._lengths = torch.cat([self._lengths, prefilled.lengths])
        self.width = max(self.width, prefilled.width)
        self._lay_out()

    def gather(self, query: Tensor) -> Tensor:
        """``[R, H, Q, D]`` to ``[P, H, G * Q, D]``."""
        _, heads, each, width = query.shape
        if self._place is not None:
            query = query.new_zeros((self.count * self.most, *query.shape[1:])).index_copy_(0, self._place, query)
        query = query.view(self.count, self.most, heads, each, width).transpose(1, 2)
        return query.reshape(self.count, heads, self.most * each, width)

    def scatter(self, grid: Tensor, each: int) -> Tensor:
        """``[P, H, G * Q, D]`` back to ``[R, H, Q, D]``."""
        _, heads, _, width = grid.shape
        rows = grid.view(self.count, heads, self.most, each, width).transpose(1, 2).reshape(-1, heads, each, width)
        return rows if self._place is None else rows[self._place]


class _Block:
    """One layer with its cache."""

    def __init__(
        self, layer: Any, keys: Tensor, values: Tensor, rows: Tensor, window: Window, prompts: _Prompts | None
    ) -> None:
        self._layer, self._attention, self._mlp = layer, layer.self_attn, layer.mlp
        self._heads, self._width = keys.shape[1], keys.shape[-1]
        self._window, self._prompts = window, prompts
        self._threads = torch.get_num_threads()
        self._shared = (keys, values)
        self._keys, self._values = (Room(self._own(states), rows, window.columns) for states in (keys, values))

    def _own(self, states: Tensor) -> Tensor:
        return states if self._prompts is None else states[:, :, :0]

    def advance(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        attention, layer, last = self._attention, self._layer, self._window.end - 1
        normed = _rms_norm(hidden, layer.input_layernorm)
        query = attention.q_proj(normed).view(len(hidden), -1, self._width)
        key = attention.k_proj(normed).view(len(hidden), -1, self._width)
        if hasattr(attention, "q_norm"):
            query, key = _rms_norm(query, attention.q_norm), _rms_norm(key, attention.k_norm)
        self._keys.buffer.select(2, last).copy_(_rotated(key, *rotation))
        self._values.buffer.select(2, last).copy_(attention.v_proj(normed).view_as(key))
        # Heads that share keys are queries of one head.
        query = _rotated(query, *rotation).view(len(hidden), self._heads, -1, self._width)
        hidden = hidden + attention.o_proj(self._attend(query, bias).reshape(len(hidden), -1))
        normed = _rms_norm(hidden, layer.post_attention_layernorm)
        mlp = self._mlp
        inner: Tensor = mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed)))
        return inner.add_(hidden)

    def _attend(self, query: Tensor, bias: Tensor | None) -> Tensor:
        end, scale, prompts = self._window.end, self._attention.scaling, self._prompts
        keys, values = self._keys.buffer[:, :, :end], self._values.buffer[:, :, :end]
        if prompts is None:
            with reading(keys, self._threads):
                return functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scale)
        own = _partial(query, keys, values, scale, bias)
        shared = _partial(prompts.gather(query), *self._shared, scale, prompts.bias)
        return _joined(own, [prompts.scatter(part, query.shape[2]) for part in shared]).to(query.dtype)

    def keep(self, rows: Tensor, moved: Tensor, prompts: Tensor | None) -> None:
        for room in (self._keys, self._values):
            room.keep(rows, moved, self._window.end)
        if prompts is not None and len(prompts) < len(self._shared[0]):
            self._shared = self._shared[0][prompts], self._shared[1][prompts]

    def admit(self, keys: Tensor, values: Tensor, rows: Tensor, end: int) -> None:
        self._keys.admit(self._own(keys), rows, end, self._window)
        self._values.admit(self._own(values), rows, end, self._window)
        if self._prompts is not None:
            old, width = self._shared, self._prompts.width
            self._shared = _together(old[0], keys, width), _together(old[1], values, width)


def _together(first: Tensor, second: Tensor, width: int) -> Tensor:
    """``[P + Q, H, width, D]``, both padded on the left."""
    return torch.cat([functional.pad(states, (0, 0, width - states.shape[2], 0)) for states in (first, second)])


def _partial(query: Tensor, keys: Tensor, values: Tensor, scale: float, bias: Tensor | None) -> list[Tensor]:
    """Attention to a part of the keys: the weighted sum, the largest score, and the sum of weights."""
    scores = (query @ keys.transpose(-1, -2)).float() * scale
    if bias is not None:
        scores += bias
    peak = scores.amax(-1, keepdim=True)
    weights = scores.sub_(peak).exp_()
    return [(weights.to(values.dtype) @ values).float(), peak, weights.sum(-1, keepdim=True)]


def _joined(first: list[Tensor], second: list[Tensor]) -> Tensor:
    peak = torch.maximum(first[1], second[1])
    left, right = (first[1] - peak).exp_(), (second[1] - peak).exp_()
    return (first[0] * left + second[0] * right) / (first[2] * left + second[2] * right)


def _rms_norm(hidden: Tensor, norm: Any) -> Tensor:
    return functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of ``[R, H, D]``; the sign of the rotated half is in ``sin``."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
