"""The recipes: a value head whose score after an answer tells the better one of two, by one or by several objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dovetail as dt
from dovetail_reward_model.scores import final_scores

HELPFUL_AND_HARMLESS = {"helpfulness": 1.0, "harmlessness": 1.0}


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
        scores = final_scores(policy, pairs, dropout=dropout, name="scores")
    else:
        scores = dt.values(policy, pairs, name="values").final
    options = {"margin": margin, "center": center, "bootstrap": bootstrap}
    loss = dt.loss("bradley-terry", pairs, final_values=scores, rewards=rewards, **options, name="loss")
    dt.set_loss(loss, epochs=epochs, minibatches=minibatches)


@dt.algorithm(using=reward_model)
def multi_objective_reward_model(
    graph: Any,
    judged: Any,
    *,
    objectives: Mapping[str, float] = HELPFUL_AND_HARMLESS,
    dropout: float = 0.0,
) -> None:
    """A reward model with a score for each of several objectives, from preferences and ratings, where there are any.

    The policy is the model: ``head: value``, and ``objectives`` with the same names.

    Args:
        objectives: Name to weight in the loss; see the loss ``objectives``.
        dropout: As for ``reward-model``.
    """
    graph.set("loss", use="objectives", objectives=dict(objectives))
    scores = final_scores(graph.policy, judged, dropout=dropout, objectives=tuple(objectives), name="scores")
    graph.wire("loss", final_values=scores, rollouts=judged)
    for replaced in ("values", "rewards", "pairs"):
        graph.drop(replaced)
