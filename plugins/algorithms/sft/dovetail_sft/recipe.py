"""The recipe: make demonstrated answers likelier."""

from __future__ import annotations

from typing import Any, Literal

import dovetail as dt


@dt.recipe
def sft(
    policy: Any,
    demonstrations: Any,
    *,
    reduction: Literal["token_mean", "sequence_mean", "sequence_sum_mean"] = "token_mean",
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """Supervised fine-tuning on the assistant's tokens of messages or of prompt/completion pairs.

    Args:
        reduction: See the loss ``nll``.
        epochs: Times that each batch is learnt from; passes over the data come from the number of steps.
        minibatches: Optimizer steps for each batch.
    """
    logprobs = dt.logprobs(policy, demonstrations, name="policy_logprobs")
    dt.set_loss(dt.loss("nll", logprobs, reduction=reduction, name="loss"), epochs=epochs, minibatches=minibatches)
