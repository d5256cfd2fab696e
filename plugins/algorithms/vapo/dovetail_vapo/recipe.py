"""The recipe: PPO whose value model is trained first and to whole returns, and which imitates its own successes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dovetail as dt

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged, Rollouts

_augmented = dt.recipes.ppo(
    samples=16, value_lam=1.0, length_alpha=0.05, kl_coef=0.0, clip_high=0.28, value_pretraining=50,
    epochs=1, minibatches=16,
)  # fmt: skip


@dt.algorithm(using=_augmented)
def vapo(graph: Any, *, positive_coef: float = 0.1, positive_above: float = 0.0) -> None:
    """Value-based augmented PPO (Yue et al. 2025, arXiv 2504.05118) for long chains of thought with verified answers.

    Args:
        positive_coef: Weight of the likelihood of successful completions, μ of equation 13; 0 is off. Usual value 0.1.
        positive_above: A completion whose reward is above this is a success. Usual value 0 for rewards of 0 and 1, or
            of -1 and 1.
    """
    if positive_coef:
        weights = positive_weights(graph.rewards, graph.completions, above=positive_above, name="positive_weights")
        likelihood = positive_nll(graph.policy_logprobs, weights, name="positive_loss")
        graph.loss.replace_with(graph.loss + likelihood * positive_coef)


@dt.op
def positive_weights(rewards: Tensor, completions: Rollouts, above: float) -> Tensor:
    """``[B]``: for successes the tokens of the batch by the tokens of all successes, 0 for the rest.

    So weighted, the mean over all tokens is the paper's: over the tokens of successes. The two counts are the batch's;
    in a minibatch with more or fewer successes than its share, they weigh more or less.
    """
    lengths = completions.sampled.lengths.to(rewards.dtype)
    counted, positive = rewards.isfinite(), rewards > above
    share = (lengths * positive).sum() / (lengths * counted).sum().clamp(min=1)
    return positive / share if bool(share > 0) else rewards * 0


@dt.op
def positive_nll(logprobs: Ragged, weights: Tensor) -> LossTerms:
    """``-w lp`` per token."""
    return dt.LossTerms(-(logprobs * weights))
