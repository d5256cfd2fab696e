"""The likelihood of preferences under a score for each answer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from dovetail import hookimpl

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

        labels, filled = rewards.max(), rewards.lengths > 0
        better = (groups[:, None] == groups) & (labels[:, None] > labels) & filled[:, None] & filled
        first, second = better.nonzero(as_tuple=True)
        score, other = final_values[first], final_values[second]
        difference = score - other
        if tasks is not None and self.margin:
            margins = torch.tensor(tasks["margin"], dtype=final_values.dtype, device=final_values.device)
            difference = difference - margins[first]
        losses = -torch.nn.functional.logsigmoid(difference) + self.center * (score + other).square()
        if tasks is not None and self.bootstrap:
            counts = [_poisson(self.bootstrap, task.id) for task in tasks]
            losses = losses * torch.tensor(counts, dtype=losses.dtype, device=losses.device)[first]
        _, index = torch.unique(groups, return_inverse=True)

        def of_group(values: Tensor) -> Tensor:
            """The mean over a group's pairs, at each of its rows."""
            pairs = values.new_zeros(len(groups)).index_add(0, index[first], torch.ones_like(values))
            return (values.new_zeros(len(groups)).index_add(0, index[first], values) / pairs.clamp(min=1))[index]

        with torch.no_grad():
            metrics = {
                "accuracy": of_group((score > other).to(losses.dtype)),
                "margin": of_group(score - other),
                "score": final_values.detach().clone(),
            }
        return LossTerms(of_group(losses), "batch_mean", metrics=metrics)


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
