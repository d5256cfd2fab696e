"""Values by turn: rows are episodes, entries turns."""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail import Ragged


def single_turns(sampled: Ragged) -> Ragged:
    """One turn for each row that has a token."""
    has_any = (sampled.lengths > 0).long()
    return Ragged.from_lengths(torch.zeros(int(has_any.sum()), dtype=torch.int64), has_any)


def returns_to_go(own: Ragged, totals: Tensor, gamma: float) -> Ragged:
    """``G_k = sum_(l >= k) gamma^(l - k) r_l``; what ``totals`` ``[B]`` hold beside the turns' own is in the last turn."""
    rewards = own.values.clone()
    last = own.offsets[1:] - 1
    spoken = own.lengths > 0
    rewards[last[spoken]] += (totals - own.sum())[spoken]
    returns = torch.zeros_like(rewards)
    # Turn by turn from the end: as many rounds as the longest episode has turns.
    to_end = own.offsets[1:][own.row_ids] - torch.arange(len(rewards)) - 1
    for distance in range(int(own.lengths.max()) if len(own) else 0):
        here = (to_end == distance).nonzero().squeeze(1)
        later = returns[here + 1] if distance else torch.zeros_like(rewards[here])
        returns[here] = rewards[here] + gamma * later
    return own.with_values(returns)


def compare(returns: Ragged, groups: Tensor, eps: float | None) -> Ragged:
    """Subtract the group's mean of the same turn; with ``eps`` divide by its sample standard deviation."""
    keys = torch.stack([groups[returns.row_ids], returns.positions])
    _, index = torch.unique(keys, dim=1, return_inverse=True)
    size = int(index.max()) + 1 if len(index) else 0

    def mean(values: Tensor) -> Tensor:
        return (values.new_zeros(size).index_add(0, index, values) / count)[index]

    values = returns.values
    count = torch.bincount(index, minlength=size).to(values.dtype)
    average = mean(values)
    centred = values - average
    if eps is None:
        return returns.with_values(centred)
    several = count[index]
    variance = mean(centred * centred) * several / (several - 1).clamp(min=1)
    # Rounding leaves a spread of about 1e-8 among equal returns; it is none.
    flat = variance <= (1e-6 * average.abs().clamp(min=1e-6)) ** 2
    return returns.with_values(torch.where(flat, torch.zeros_like(centred), centred / (variance.sqrt() + eps)))


def per_token(by_turn: Ragged, starts: Ragged, sampled: Ragged) -> Ragged:
    """Give every sampled token the value of its turn."""
    begins = torch.zeros(len(sampled.values), dtype=torch.int64)
    begins[sampled.offsets[:-1][starts.row_ids] + starts.values] = 1
    return sampled.with_values(by_turn.values[begins.cumsum(0) - 1])
