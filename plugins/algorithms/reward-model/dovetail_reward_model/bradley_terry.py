"""The likelihood of preferences under a score for each answer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from dovetail import DataError, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged, Tasks


@attrs.frozen
class BradleyTerry:
    """``-log σ(s_i - s_j - margin) + center (s_i + s_j)²`` over the pairs of a group in which i is preferred to j.

    Bradley and Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155), equation 1: the mean over all pairs of a group, then
    over groups. The margin is Llama 2's (Touvron et al. 2023, arXiv 2307.09288, equation 2), the centre term that of
    Eisenstein et al. 2023 (arXiv 2312.09244). The score of an answer is the value after its last token.

    Args:
        margin: Take the column ``margin`` of the rows into account, by which the better answer is to win.
        center: Weight of the squared sum of a pair's scores, which pulls them towards 0. Usual value 0.01.
        bootstrap: The number of an ensemble's member, from 1: each row of the data then counts Poisson(1) times, drawn
            from this number and the row's id, which makes a bootstrap sample; 0 counts every row once.
    """

    margin: bool = False
    center: float = attrs.field(default=0.0, validator=ge(0))
    bootstrap: int = attrs.field(default=0, validator=ge(0))

    def ignores(self) -> tuple[str, ...]:
        return () if self.margin or self.bootstrap else ("tasks",)

    @hookimpl
    def loss_terms(self, final_values: Tensor, rewards: Ragged, groups: Tensor, tasks: Tasks | None) -> LossTerms:
        """Terms ``[B]``: that of a group at each of its rows."""
        import torch

        from dovetail import LossTerms

        if final_values.ndim > 1:
            problem = f"the head has {final_values.shape[1]} objectives, and bradley-terry compares one value"
            raise DataError(problem, hint="train them by `multi-objective-reward-model`")
        labels = rewards.max().masked_fill(rewards.lengths == 0, torch.nan)
        margins = None
        if tasks is not None and self.margin:
            margins = torch.tensor(tasks["margin"], dtype=final_values.dtype, device=final_values.device)
        counts = bootstrap_counts(tasks, self.bootstrap, final_values) if tasks is not None else None
        terms, metrics = preference_terms(
            final_values[:, None], labels[:, None], groups, center=self.center, margins=margins, counts=counts
        )
        measured = {name: values.squeeze(1) for name, values in metrics.items()}
        return LossTerms(terms.squeeze(1), "batch_mean", metrics=measured)


def preference_terms(
    scores: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    center: float,
    margins: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each row's group by each of K objectives, and the metrics ``accuracy``, ``margin`` and ``score``.

    Args:
        scores: ``[B, K]``, with the gradient.
        labels: ``[B, K]``, more is better; NaN is compared with nothing.
        groups: ``[B]``; only rows of one group are compared.
        center: As for :class:`BradleyTerry`.
        margins: ``[B]``, by how much the better row is to win.
        counts: ``[B]``, how often the pairs of a row count.

    Returns:
        ``[B, K]``, the mean over a group's pairs at each of its rows; without a pair it is 0, and NaN in the metrics.
    """
    import torch

    better = (groups[:, None] == groups)[:, :, None] & (labels[:, None] > labels)
    first, second, objective = better.nonzero(as_tuple=True)
    score, other = scores[first, objective], scores[second, objective]
    difference = score - other if margins is None else score - other - margins[first]
    losses = -torch.nn.functional.logsigmoid(difference) + center * (score + other).square()
    if counts is not None:
        losses = losses * counts[first]
    _, index = torch.unique(groups, return_inverse=True)
    cell = index[first] * scores.shape[1] + objective

    def of_group(values: Tensor, without: float) -> Tensor:
        """The mean over a group's pairs, at each of its rows."""
        sums, pairs = (
            scores.new_zeros(scores.numel()).index_add(0, cell, each) for each in (values, torch.ones_like(values))
        )
        return torch.where(pairs > 0, sums / pairs.clamp(min=1), without).view_as(scores)[index]

    with torch.no_grad():
        metrics = {
            "accuracy": of_group((score > other).to(losses.dtype), torch.nan),
            "margin": of_group(score - other, torch.nan),
            "score": scores.detach().clone(),
        }
    return of_group(losses, 0.0), metrics


def bootstrap_counts(tasks: Tasks, member: int, like: Tensor) -> Tensor | None:
    """``[B]``, how often each row counts in the sample of an ensemble's member; None for member 0."""
    import torch

    counts = [_poisson(member, task.id) for task in tasks]
    return torch.tensor(counts, dtype=like.dtype, device=like.device) if member else None


def _poisson(member: int, row: str) -> int:
    """A draw from Poisson(1) that depends on the arguments alone."""
    digest = hashlib.sha256(f"{member} {row}".encode()).digest()
    uniform, count = int.from_bytes(digest[:8], "big") / 2**64, 0
    chance = total = 0.36787944117144233  # exp(-1)
    while uniform > total and count < 20:
        count += 1
        chance /= count
        total += chance
    return count
