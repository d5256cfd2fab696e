"""From logits to tokens and their log-probs in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail import Sampling

_BLOCK = 256


def choose(
    logits: Tensor, sampling: Sampling, uniform: Tensor | None, banned: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Draw a token for each row.

    Args:
        logits: ``[R, V]``.
        sampling: Temperature and truncation.
        uniform: ``[R]`` in [0, 1); None when greedy.
        banned: ``[S]`` token ids that may not be drawn, and ``[R, 1]`` bool, by which rows; or None.

    Returns:
        ``[R]`` int64 tokens, and ``[R]`` float32 log-probs under ``softmax(logits / temperature)`` before truncation.
    """
    scaled = logits.float()
    if sampling.scoring_temperature != 1.0:
        scaled = scaled / sampling.scoring_temperature
    peak = scaled.amax(-1, keepdim=True)
    weights = torch.sub(scaled, peak).exp_()
    normaliser = peak.squeeze(-1) + weights.sum(-1).log()
    if uniform is None:
        tokens = (scaled if banned is None else _without(scaled, *banned, -torch.inf)).argmax(-1)
    else:
        if banned is not None:
            weights = _without(weights, *banned, 0.0)
        tokens = inverse_cdf(truncated(weights, sampling), uniform)
    return tokens, scaled.gather(-1, tokens[:, None]).squeeze(-1) - normaliser


def _without(numbers: Tensor, tokens: Tensor, rows: Tensor, fill: float) -> Tensor:
    return numbers.index_copy(-1, tokens, numbers[:, tokens].masked_fill(rows, fill))


def truncated(weights: Tensor, sampling: Sampling) -> Tensor:
    """Unnormalised ``weights`` ``[R, V]`` with 0 where top-k, top-p or min-p, in this order, drop a token."""
    if 0 < sampling.top_k < weights.shape[-1]:
        smallest = torch.topk(weights, sampling.top_k, dim=-1).values[:, -1:]
        weights = weights.masked_fill(weights < smallest, 0.0)
    if sampling.top_p < 1:
        ordered, order = (weights / weights.sum(-1, keepdim=True)).sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter_(-1, order, before >= sampling.top_p)
        weights = weights.masked_fill(dropped, 0.0)
    if sampling.min_p > 0:
        weights = weights.masked_fill(weights < sampling.min_p * weights.amax(-1, keepdim=True), 0.0)
    return weights


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw from unnormalised ``weights`` ``[R, V]`` at ``uniform`` ``[R]`` float64.

    Two levels for a large vocabulary, block sums and then one block, because a running sum over all of it costs more
    than the forward pass of a small model. A token of weight 0 is never drawn.
    """
    rows, size = weights.shape
    uniform = uniform.to(weights.device)[:, None]
    if size <= 4 * _BLOCK:
        sums = weights.cumsum(-1, dtype=torch.float64)
        return _search(sums, uniform * sums[:, -1:]).squeeze(-1)
    blocks = -(-size // _BLOCK)
    if size % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, blocks * _BLOCK - size))
    weights = weights.view(rows, blocks, _BLOCK)
    sums = weights.sum(-1).cumsum(-1, dtype=torch.float64)
    target = uniform * sums[:, -1:]
    block = _search(sums, target)
    before = torch.where(block > 0, sums.gather(-1, (block - 1).clamp(min=0)), 0.0)
    inside = weights[torch.arange(rows, device=weights.device), block.squeeze(-1)].cumsum(-1, dtype=torch.float64)
    return (block * _BLOCK + _search(inside, target - before)).squeeze(-1)


def _search(sums: Tensor, target: Tensor) -> Tensor:
    """``[R, 1]``, the first place whose running sum exceeds the target; rounding may not push it past the last."""
    last = torch.nextafter(sums[:, -1:], torch.zeros((), dtype=sums.dtype, device=sums.device))
    return torch.searchsorted(sums, torch.minimum(target, last), right=True)
