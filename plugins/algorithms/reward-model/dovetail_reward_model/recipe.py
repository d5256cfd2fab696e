"""The recipe: a value head whose score after an answer tells the better one of two."""

from __future__ import annotations

from typing import Any

import dovetail as dt
from dovetail_reward_model.dropout import dropped_scores


@dt.recipe
def reward_model(
    policy: Any,
    pairs: Any,
    *,
    margin: bool = False,
    center: float = 0.0,
    bootstrap: int = 0,
    dropout: float = 0.0,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """A reward model on pairs of answers (Ouyang et al. 2022, arXiv 2203.02155). The policy is the model: ``head: value``.

    Args:
        margin: See the loss ``bradley-terry``.
        center: See the loss ``bradley-terry``.
        bootstrap: See the loss ``bradley-terry``.
        dropout: Share of the head's inputs that are dropped in training, for a model that is to tell its uncertainty by
            dropout. Usual value 0, else 0.1.
        epochs: Times that each batch is learnt from; passes over the data come from the number of steps.
        minibatches: Optimizer steps for each batch.
    """
    rewards = dt.reward("label", rollout=pairs, name="rewards")
    if dropout:
        scores = dropped_scores(policy, pairs, dropout=dropout, name="scores")
    else:
        scores = dt.values(policy, pairs, name="values").final
    options = {"margin": margin, "center": center, "bootstrap": bootstrap}
    loss = dt.loss("bradley-terry", pairs, final_values=scores, rewards=rewards, **options, name="loss")
    dt.set_loss(loss, epochs=epochs, minibatches=minibatches)
