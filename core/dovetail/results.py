"""What estimators and losses return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
from torch import Tensor

from dovetail.ragged import Ragged

Reduction = Literal[
    "token_mean", "sequence_mean", "sequence_sum_mean", "sequence_sum_norm", "prompt_mean", "batch_mean"
]


@attrs.frozen(eq=False)
class Advantages:
    """Credit per sequence ``[B]`` or per sampled token, with the value model's targets if there are any."""

    advantages: Tensor | Ragged
    returns: Ragged | None = None
    metrics: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class LossTerms:
    """Terms of a loss and how the engine is to reduce them over the whole optimizer step.

    ``token_mean`` divides by all tokens of the step; ``sequence_mean`` averages token means over sequences;
    ``sequence_sum_mean`` averages token sums; ``sequence_sum_norm`` divides token sums by ``B * norm``; ``prompt_mean``
    averages, over prompts, the mean over a prompt's tokens; ``batch_mean`` averages terms ``[B]``.
    """

    terms: Ragged | Tensor  #: per sampled token, or ``[B]`` for a loss on whole sequences
    reduction: Reduction = "token_mean"
    norm: float | None = None  #: the constant of ``sequence_sum_norm``, in tokens
    #: per token or per sequence ``[B]``; the engine averages them over all tokens or sequences of the step
    metrics: Mapping[str, Ragged | Tensor] = attrs.field(factory=dict)
