"""Generalised advantage estimation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import and_, ge, le

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Advantages, Ragged

_share = and_(ge(0), le(1))


@attrs.frozen
class GAE:
    """``A_t = δ_t + γ λ A_{t+1}``, ``δ_t = r_t + γ V_{t+1} - V_t``, over sampled tokens; returns are ``A + V``.

    Schulman et al. 2016 (arXiv 1506.02438), equations 11 to 16. The reward stands at the last sampled token. Tool and
    observation tokens are no steps: they are skipped, not discounted. A completion that ended has no value after it;
    one that the token limit cut is continued by the value of its last state.

    Args:
        gamma: Discount per sampled token. Usual value 1.
        lam: Between one-step differences (0) and whole returns (1). Usual range 0.9 to 1.
        whiten: Give the advantages mean 0 and sample variance 1 over the batch, after the returns are taken.
    """

    gamma: float = attrs.field(default=1.0, validator=_share)
    lam: float = attrs.field(default=0.95, validator=_share)
    whiten: bool = False

    @property
    def traits(self) -> tuple[str, ...]:
        return ("normalises",) if self.whiten else ()

    @hookimpl
    def estimate(self, rewards: Tensor, values: Ragged, final_values: Tensor, truncated: Tensor) -> Advantages:
        """Advantages and returns over the sampled tokens.

        Args:
            rewards: ``[B]``.
            values: Of the state before each sampled token.
            final_values: ``[B]``, of the state after the last token.
            truncated: ``[B]`` bool.
        """
        import torch

        from dovetail import Advantages

        lengths = values.lengths
        rows = torch.arange(len(values), device=lengths.device)
        filled = lengths > 0
        last = (lengths - 1).clamp(min=0)
        padded = values.to_padded()
        following = torch.zeros_like(padded)
        following[:, :-1] = padded[:, 1:]
        following[rows[filled], last[filled]] = torch.where(truncated, final_values, torch.zeros_like(final_values))[
            filled
        ]
        step_rewards = torch.zeros_like(padded)
        step_rewards[rows[filled], last[filled]] = rewards[filled].to(padded.dtype)
        delta = step_rewards + self.gamma * following - padded
        advantages = torch.zeros_like(padded)
        running = torch.zeros_like(final_values, dtype=padded.dtype)
        for step in range(padded.shape[1] - 1, -1, -1):
            # Columns past a row's end hold no step; the sum begins at its last token.
            running = torch.where(
                step < lengths, delta[:, step] + self.gamma * self.lam * running, torch.zeros_like(running)
            )
            advantages[:, step] = running
        flat = values.with_values(advantages[values.row_ids, values.positions])
        returns = flat + values
        return Advantages(whitened(flat) if self.whiten else flat, returns)


def whitened(advantages: Ragged) -> Ragged:
    """``(A - mean) / sqrt(var + 1e-8)`` over all tokens, sample variance."""
    values = advantages.values
    if len(values) < 2:
        return advantages
    return advantages.with_values((values - values.mean()) * (values.var() + 1e-8).rsqrt())
