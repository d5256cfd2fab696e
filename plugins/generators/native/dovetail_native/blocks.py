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

from dovetail_native.cache import ModelDecoder, Prefilled, prefill, with_room

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
    expected = ModelDecoder(model, prefilled, rows, 1).advance(tokens, 0).float()
    tolerance = 1e-3 if expected.dtype == torch.float32 and prefilled.logits.dtype == torch.float32 else 0.1
    found = (BlockDecoder(model, prefilled, rows, 1, shared_from=limit).advance(tokens, 0) for limit in (1, 1000))
    return all(torch.allclose(logits.float(), expected, atol=tolerance, rtol=tolerance) for logits in found)


class BlockDecoder:
    """As :class:`~dovetail_native.cache.ModelDecoder`, for models made of Llama's blocks.

    Args:
        model: One that :func:`decodes` accepts.
        prefilled: Its prompts.
        rows: ``[R]`` int64, the prompt of each row, ascending.
        most: Tokens to come.
        shared_from: Prompts of at least this width are attended to where they lie, without a copy for each row.
    """

    def __init__(
        self, model: Any, prefilled: Prefilled, rows: Tensor, most: int, *, shared_from: int = SHARED_FROM
    ) -> None:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        body = causal.model
        self._embed, self._norm, self._head = body.embed_tokens, body.norm, causal.lm_head
        width = prefilled.width
        self._lengths = prefilled.lengths[rows]
        places = torch.arange(int(self._lengths.max()) + most, device=rows.device)
        cos, sin = body.rotary_emb(prefilled.logits, places[None])
        half = sin.shape[-1] // 2
        self._cos, self._sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        bias = None
        if prefilled.mask is not None:
            bias = prefilled.layers[0][0].new_zeros(prefilled.mask.shape)
            bias.masked_fill_(prefilled.mask == 0, -torch.inf)
        share = width >= shared_from
        self._bias = functional.pad(bias[rows], (0, most))[:, None, None] if bias is not None and not share else None
        self._start = 0 if share else width
        self._prompts = _Prompts(rows, bias) if share else None
        self._blocks = [
            _Block(layer, keys, values, rows, self._start + most, share)
            for layer, (keys, values) in zip(body.layers, prefilled.layers, strict=True)
        ]

    def advance(self, tokens: Tensor, step: int) -> Tensor:
        """Feed ``tokens`` ``[R]``, the ``step``-th of their completions; ``[R, V]`` logits of the next."""
        hidden = self._embed(tokens)
        places = self._lengths + step
        rotation = self._cos[places][:, None].to(hidden.dtype), self._sin[places][:, None].to(hidden.dtype)
        end = self._start + step + 1
        bias = self._bias[..., :end] if self._bias is not None else None
        for block in self._blocks:
            hidden = block.advance(hidden, rotation, end, bias, self._prompts)
        logits: Tensor = self._head(_rms_norm(hidden, self._norm))
        return logits

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._lengths = self._lengths[rows]
        self._bias = self._bias[rows] if self._bias is not None else None
        prompts = self._prompts.keep(rows) if self._prompts is not None else None
        for block in self._blocks:
            block.keep(rows, prompts)


class _Prompts:
    """Which rows attend to which prompt: a grid of prompts and places, some of them empty."""

    def __init__(self, rows: Tensor, bias: Tensor | None) -> None:
        self._rows = rows
        self.bias = bias[:, None, None] if bias is not None else None
        self._lay_out()

    def _lay_out(self) -> None:
        counts = torch.bincount(self._rows)
        self.count, self.most = len(counts), int(counts.max())
        before = counts.cumsum(0) - counts
        place = torch.arange(len(self._rows), device=self._rows.device) - before[self._rows]
        self._place = None if self.count * self.most == len(self._rows) else self._rows * self.most + place

    def keep(self, rows: Tensor) -> Tensor:
        """Drop all rows but these; gives the prompts that still have rows."""
        kept, self._rows = torch.unique(self._rows[rows], return_inverse=True)
        self.bias = self.bias[kept] if self.bias is not None else None
        self._lay_out()
        return kept

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

    def __init__(self, layer: Any, keys: Tensor, values: Tensor, rows: Tensor, capacity: int, share: bool) -> None:
        self._layer, self._attention, self._mlp = layer, layer.self_attn, layer.mlp
        self._heads, self._width = keys.shape[1], keys.shape[-1]
        self._shared = (keys, values) if share else None
        if share:
            keys, values = keys[:, :, :0], values[:, :, :0]
        self._keys, self._values = with_room(keys, rows, capacity), with_room(values, rows, capacity)

    def advance(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], end: int, bias: Tensor | None, prompts: _Prompts | None
    ) -> Tensor:
        attention, layer = self._attention, self._layer
        normed = _rms_norm(hidden, layer.input_layernorm)
        query = attention.q_proj(normed).view(len(hidden), -1, self._width)
        key = attention.k_proj(normed).view(len(hidden), -1, self._width)
        if hasattr(attention, "q_norm"):
            query, key = _rms_norm(query, attention.q_norm), _rms_norm(key, attention.k_norm)
        self._keys.select(2, end - 1).copy_(_rotated(key, *rotation))
        self._values.select(2, end - 1).copy_(attention.v_proj(normed).view_as(key))
        # Heads that share keys are queries of one head.
        query = _rotated(query, *rotation).view(len(hidden), self._heads, -1, self._width)
        mixed = self._attend(query, end, bias, prompts).reshape(len(hidden), -1)
        hidden = hidden + attention.o_proj(mixed)
        normed = _rms_norm(hidden, layer.post_attention_layernorm)
        mlp = self._mlp
        inner: Tensor = mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed)))
        return inner.add_(hidden)

    def _attend(self, query: Tensor, end: int, bias: Tensor | None, prompts: _Prompts | None) -> Tensor:
        keys, values, scale = self._keys[:, :, :end], self._values[:, :, :end], self._attention.scaling
        if self._shared is None or prompts is None:
            return functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scale)
        each = query.shape[2]
        own = _partial(query, keys, values, scale, None)
        shared = _partial(prompts.gather(query), *self._shared, scale, prompts.bias)
        return _joined(own, [prompts.scatter(part, each) for part in shared]).to(query.dtype)

    def keep(self, rows: Tensor, prompts: Tensor | None) -> None:
        self._keys, self._values = self._keys[rows], self._values[rows]
        if self._shared is not None and prompts is not None and len(prompts) < len(self._shared[0]):
            self._shared = self._shared[0][prompts], self._shared[1][prompts]


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
