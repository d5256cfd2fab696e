"""Negative log-likelihood of demonstrated tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import in_

from dovetail import hookimpl

if TYPE_CHECKING:
    from dovetail import LossTerms, Ragged

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum_mean")


@attrs.frozen
class NLL:
    """``-logprobs`` per target token: the assistant's tokens, the end token included, and no other.

    Args:
        reduction: ``token_mean`` weighs every token alike, ``sequence_mean`` every row, ``sequence_sum_mean`` is the
            likelihood of whole rows.
    """

    reduction: Literal["token_mean", "sequence_mean", "sequence_sum_mean"] = attrs.field(
        default="token_mean", validator=in_(REDUCTIONS)
    )

    @hookimpl
    def loss_terms(self, logprobs: Ragged) -> LossTerms:
        """Terms per token; see the class."""
        from dovetail import LossTerms

        return LossTerms(-logprobs, self.reduction, metrics={"nll": -logprobs.detach()})
