"""Regression of a value model on its targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import gt, in_, optional

from dovetail import hookimpl

if TYPE_CHECKING:
    from dovetail import LossTerms, Ragged

REDUCTIONS = ("token_mean", "sequence_mean")


@attrs.frozen
class ValueLoss:
    """``½ max((V - R)², (clamp(V, V_old - clip, V_old + clip) - R)²)`` per sampled token.

    Schulman et al. 2017, as in the reference implementation of PPO. The second port, ``returns``, takes a reward per
    sequence as well: then the target of every token is the reward, the undiscounted return with λ = 1.

    Args:
        clip: How far the value may move from the one before the batch and still count; null is off. Usual value 0.2.
        reduction: How the engine averages.
    """

    clip: float | None = attrs.field(default=0.2, validator=optional(gt(0)))
    reduction: Literal["token_mean", "sequence_mean"] = attrs.field(default="token_mean", validator=in_(REDUCTIONS))

    def ignores(self) -> tuple[str, ...]:
        return ("old_values",) if self.clip is None else ()

    @hookimpl
    def loss_terms(self, values: Ragged, returns: Ragged, old_values: Ragged | None) -> LossTerms:
        """Terms per token; see the class."""
        import torch

        from dovetail import LossTerms

        error = (values - returns).map(torch.square)
        metrics = {"error": error.detach()}
        if old_values is not None and self.clip is not None:
            moved = old_values + (values - old_values).clamp(-self.clip, self.clip)
            clipped = (moved - returns).map(torch.square)
            metrics["clip_fraction"] = error.with_values(
                (clipped.values > error.values).to(error.values.dtype)
            ).detach()
            error = error.with_values(torch.maximum(error.values, clipped.values))
        return LossTerms(error * 0.5, self.reduction, metrics=metrics)
