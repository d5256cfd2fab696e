"""Scores under dropout before the value head: one draw in training, many to tell how sure a model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Agent


class Dropped:
    """An agent whose value head sees its inputs through dropout; its values have a last dimension ``samples`` with a seed.

    Gal and Ghahramani 2016 (arXiv 1506.02142). With a ``seed`` all positions share a draw's mask, so that a score
    depends on nothing beside it; without, masks are drawn from torch's generator.
    """

    def __init__(self, agent: Agent, share: float, samples: int = 1, seed: int | None = None) -> None:
        self._agent, self._share, self._samples, self._seed = agent, share, samples, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def value(self, hidden: Tensor) -> Tensor:
        import torch

        if self._seed is None:
            return self._agent.value(torch.nn.functional.dropout(hidden, self._share))
        generator = torch.Generator().manual_seed(self._seed)
        kept = torch.rand(self._samples, hidden.shape[-1], generator=generator) >= self._share
        masks = (kept / (1 - self._share)).to(hidden)
        return torch.stack([self._agent.value(hidden * mask) for mask in masks], -1)
