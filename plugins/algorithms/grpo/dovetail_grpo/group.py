"""Advantages by comparison with the other samples of the same prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import ge, in_

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class GroupAdvantages:
    """``A_i = (R_i - mean(R_group)) / (std(R_group) + eps)``, one number for a sequence.

    GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; the standard deviation is the sample's (Bessel). A group
    of one, or without spread, gets 0. ``scale="none"`` is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783);
    ``baseline="leave_one_out"`` with ``scale="none"`` is RLOO (Ahmadian et al. 2024, arXiv 2402.14740);
    ``combine="normalize_then_sum"`` is GDPO (Liu et al. 2026): each reward is normalised in its group, then their
    weighted sum over the batch.

    Args:
        scale: What the difference is divided by: the spread of the ``group``, of the ``batch`` of differences, or
            ``none``. TRL's ``batch`` is the spread of the rewards themselves, which also holds how prompts differ.
        baseline: What is subtracted: the group's ``mean``, the mean of the others (``leave_one_out``), or ``none``.
        spread: Of which samples ``scale="group"`` takes the spread: the ``group``, or the others (``leave_one_out``), as
            NeMo-RL does; where the others have none, the difference stays as it is.
        combine: ``sum_then_normalize`` compares the weighted total; ``normalize_then_sum`` each reward by itself, so
            that a reward counts by its weight and not by its spread.
        eps: Added to the standard deviation. Elsewhere 1e-6 (verl) or 1e-9 (OpenRLHF).
    """

    scale: Literal["group", "batch", "none"] = attrs.field(default="group", validator=in_(["group", "batch", "none"]))
    baseline: Literal["mean", "leave_one_out", "none"] = attrs.field(
        default="mean", validator=in_(["mean", "leave_one_out", "none"])
    )
    spread: Literal["group", "leave_one_out"] = attrs.field(default="group", validator=in_(["group", "leave_one_out"]))
    combine: Literal["sum_then_normalize", "normalize_then_sum"] = attrs.field(
        default="sum_then_normalize", validator=in_(["sum_then_normalize", "normalize_then_sum"])
    )
    eps: float = attrs.field(default=1e-4, validator=ge(0))

    @property
    def traits(self) -> tuple[str, ...]:
        return () if self.scale == "none" else ("normalises",)

    def ignores(self) -> tuple[str, ...]:
        return ("reward_parts", "reward_weights") if self.combine == "sum_then_normalize" else ()

    def formula(self) -> str:
        """In words and symbols, with these options."""
        mean = {"mean": "R − mean of the group", "leave_one_out": "R − mean of the others", "none": "R"}[self.baseline]
        of = {
            "group": self.spread.replace("group", "the group").replace("leave_one_out", "the others"),
            "batch": "the batch",
        }
        scaled = mean if self.scale == "none" else f"({mean}) / (std of {of[self.scale]} + {self.eps:g})"
        if self.combine == "sum_then_normalize":
            return f"A = {scaled}, R the weighted total"
        return f"A = Σ w z, then its z-score over the batch; z = {scaled} for each reward R with its weight w"

    @hookimpl
    def estimate(
        self,
        rewards: Tensor,
        groups: Tensor,
        reward_parts: Mapping[str, Tensor] | None,
        reward_weights: Mapping[str, float] | None,
    ) -> Tensor:
        """``[B]`` advantages from ``[B]`` rewards and group numbers."""
        if reward_parts is None or reward_weights is None:
            return self._compare(rewards, groups)
        total = sum(reward_weights[name] * self._compare(part, groups) for name, part in reward_parts.items())
        return whitened(total, self.eps)  # type: ignore[arg-type]

    def _compare(self, rewards: Tensor, groups: Tensor) -> Tensor:
        import torch

        _, index = torch.unique(groups, return_inverse=True)
        count = _group_sum(torch.ones_like(rewards), index)[index]
        mean = _group_sum(rewards, index)[index] / count
        centred = rewards - mean
        # A leave-one-out mean differs from the mean by the factor n / (n - 1) of the difference.
        leave_one_out = centred * count / (count - 1).clamp(min=1)
        difference = {"mean": centred, "leave_one_out": leave_one_out, "none": rewards}[self.baseline]
        if self.scale == "none":
            return (
                torch.where(count > 1, difference, torch.zeros_like(difference)) if self.baseline != "none" else rewards
            )
        if self.scale == "batch":
            return whitened(difference, self.eps, centre=False)
        squares = _group_sum(centred * centred, index)[index]
        if self.spread == "leave_one_out":
            # Without one sample, a group of n loses n / (n - 1) of its squared difference from the mean.
            squares, count = squares - centred * leave_one_out, count - 1
        variance = squares / (count - 1).clamp(min=1)
        # Rounding leaves a spread of about 1e-8 in a group of equal rewards; it is none.
        flat = variance <= (1e-6 * mean.abs().clamp(min=1e-6)) ** 2
        scaled = difference / (variance.clamp(min=0).sqrt() + self.eps)
        unscaled = difference if self.spread == "leave_one_out" else torch.zeros_like(scaled)
        return torch.where(flat | (count <= 1), unscaled, scaled)


def _group_sum(values: Tensor, index: Tensor) -> Tensor:
    return values.new_zeros(int(index.max()) + 1 if len(index) else 0).index_add(0, index, values)


def whitened(values: Tensor, eps: float, *, centre: bool = True) -> Tensor:
    """Divide by the batch's sample standard deviation, after subtracting its mean unless told not to."""
    import torch

    if len(values) < 2:
        return torch.zeros_like(values)
    spread = values.std()
    shifted = values - values.mean() if centre else values
    return shifted / (spread + eps) if bool(spread > 0) else torch.zeros_like(values)
