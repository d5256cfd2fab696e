"""From logits to tokens and their log-probs in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail import Sampling

_BLOCK = 256


def choose(logits: Tensor, sampling: Sampling, uniform: Tensor | None, banned: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw a token for each row.

    Args:
        logits: ``[R, V]``.
        sampling: Temperature and truncation.
        uniform: ``[R]`` in [0, 1); None when greedy.
        banned: Token ids that may not be drawn now, or None.

    Returns:
        ``[R]`` int64 tokens, and ``[R]`` float32 log-probs under ``softmax(logits / temperature)`` before truncation.
    """
    scaled = logits.float()
    if sampling.scoring_temperature != 1.0:
        scaled = scaled / sampling.scoring_temperature
    logprobs = torch.log_softmax(scaled, -1)
    allowed = logprobs if banned is None else logprobs.index_fill(-1, banned, -torch.inf)
    if uniform is None:
        tokens = allowed.argmax(-1)
    else:
        tokens = inverse_cdf(truncated(allowed, sampling).exp(), uniform)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1)


def truncated(logprobs: Tensor, sampling: Sampling) -> Tensor:
    """``[R, V]`` with minus infinity where top-k, top-p or min-p, in this order, drop a token."""
    if 0 < sampling.top_k < logprobs.shape[-1]:
        smallest = torch.topk(logprobs, sampling.top_k, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < smallest, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = torch.softmax(logprobs, -1).sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter_(-1, order, before >= sampling.top_p)
        logprobs = logprobs.masked_fill(dropped, -torch.inf)
    if sampling.min_p > 0:
        floor = logprobs.max(-1, keepdim=True).values + torch.log(torch.tensor(sampling.min_p))
        logprobs = logprobs.masked_fill(logprobs < floor, -torch.inf)
    return logprobs


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw from unnormalised ``weights`` ``[R, V]`` at ``uniform`` ``[R]``.

    Two levels, block sums and then one block, because a running sum over a large vocabulary costs more than the
    forward pass of a small model. A token of weight 0 is never drawn.
    """
    rows, size = weights.shape
    blocks = -(-size // _BLOCK)
    padded = torch.nn.functional.pad(weights, (0, blocks * _BLOCK - size)).view(rows, blocks, _BLOCK)
    sums = padded.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniform.to(weights.device)[:, None] * sums[:, -1:]
    block = (sums <= target).sum(-1, keepdim=True).clamp(max=blocks - 1)
    before = torch.where(block > 0, sums.gather(-1, (block - 1).clamp(min=0)), torch.zeros_like(target))
    inside = padded[torch.arange(rows, device=weights.device), block.squeeze(-1)].double().cumsum(-1)
    # Rounding may push the target past the block's own sum; it is pulled back below it.
    rest = torch.minimum(target - before, inside[:, -1:] * (1 - 1e-12))
    token = block * _BLOCK + (inside <= rest).sum(-1, keepdim=True)
    return token.squeeze(-1)
