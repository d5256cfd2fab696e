"""Reward a batch whose lengths follow a target distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


def _numbers(values: object) -> tuple[float, ...]:
    return tuple(float(value) for value in values)  # type: ignore[attr-defined]


@attrs.frozen
class LengthDistribution:
    """Score at most 0: how far a row must move for the batch's lengths to follow the target, by the target's mean.

    Sort the batch; the row of rank r (from 0) of B is due the length of the target at quantile ``(r + 1/2) / B``. The
    score is ``-|length - due| / scale``, rows of one length sharing theirs; its mean over the batch is minus the
    Wasserstein-1 distance between the lengths and the target, cut into B parts (Villani 2003, *Topics in Optimal
    Transportation*, theorem 2.18: in one dimension the sorted matching is optimal), in units of ``scale``, the mean
    of ``target``.

    A length counts tokens from the policy's first on. A small batch is far from any broad target by chance alone.

    Args:
        target: Lengths at evenly spaced quantiles, from the shortest to the longest, straight lines between them:
            ``[0, 512]`` is uniform, ``[100, 100]`` all alike. Usual: five to ten quantiles of good answers.
    """

    target: tuple[float, ...] = attrs.field(converter=_numbers)

    def __attrs_post_init__(self) -> None:
        if len(self.target) < 2 or list(self.target) != sorted(self.target) or self.target[0] < 0 or not self.scale:
            raise ValueError(f"target is at least two lengths that do not fall, got {list(self.target)}")

    @property
    def scale(self) -> float:
        return sum(self.target) / len(self.target)

    @hookimpl
    def score(self, completions: Ragged, groups: Tensor) -> Tensor:
        """``[B]``; see the class. It asks for the groups because it must see the rows together."""
        import torch

        lengths = completions.lengths
        ranked, order = lengths.sort(stable=True)
        at = (torch.arange(len(lengths), device=lengths.device) + 0.5) / max(len(lengths), 1) * (len(self.target) - 1)
        target = torch.tensor(self.target, device=lengths.device)
        low = at.long().clamp(max=len(self.target) - 2)
        due = target[low] + (at - low) * (target[low + 1] - target[low])
        _, same, count = torch.unique_consecutive(ranked, return_inverse=True, return_counts=True)
        cost = torch.zeros(len(count), device=lengths.device).index_add(0, same, (ranked - due).abs()) / count
        return torch.empty(len(lengths), device=lengths.device).index_copy(0, order, -cost[same] / self.scale)
