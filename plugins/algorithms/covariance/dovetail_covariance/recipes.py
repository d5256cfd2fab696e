"""The recipes, as differences from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt
from dovetail_covariance.tokens import distance, most_covariant, spared
from dovetail_grpo import Reduction


@dt.algorithm(using=dt.recipes.grpo)
def clip_cov(graph: Any, *, share: float = 2e-4, low: float = 1.0, high: float = 5.0) -> None:
    """Clip-Cov (Cui et al. 2025, arXiv 2505.22617): a few tokens of high covariance get no policy gradient.

    Args:
        share: Of the tokens of a batch, at least one, drawn from those between ``low`` and ``high``. Usual range 2e-4 to
            2e-3.
        low: Covariance above which a token may be drawn, far above the mean. Usual value 1.
        high: Covariance below which it may be drawn. Usual value 5.
    """
    if not (0 < share <= 1 and low < high):
        problem = f"clip-cov draws a share of tokens between low and high, and was told {share:g}, {low:g} and {high:g}"
        raise dt.RecipeError(problem, hint="share is above 0 and at most 1, low is below high")

    def sparing(advantages: Any) -> Any:
        facts = (graph.policy_logprobs, graph.rewards, graph.completions)
        return spared(advantages, *facts, share=share, low=low, high=high, name="spared")

    graph.insert_before("loss", "advantages", sparing)


@dt.algorithm(using=dt.recipes.grpo)
def kl_cov(
    graph: Any,
    *,
    share: float = 2e-4,
    kl_cov_coef: float = 1.0,
    reduction: Reduction = "token_mean",
    norm: float | None = None,
) -> None:
    """KL-Cov (Cui et al. 2025, arXiv 2505.22617): tokens of the highest covariance pay for moving, and nothing is clipped.

    Args:
        share: Of the tokens of a batch, at least one. Usual range 2e-4 (32B) to 2e-3 (7B).
        kl_cov_coef: Price of a nat away from the policy before the batch. It acts from the second optimizer step on a
            batch on. Usual value 1.
        reduction: How token terms are averaged, those of the price as well.
        norm: Of ``sequence_sum_norm``.
    """
    if not (0 < share <= 1 and kl_cov_coef >= 0):
        problem = f"kl-cov prices a share of tokens, and was told share {share:g} and kl_cov_coef {kl_cov_coef:g}"
        raise dt.RecipeError(problem, hint="share is above 0 and at most 1, kl_cov_coef not below 0")
    found = most_covariant(graph.advantages, graph.policy_logprobs, graph.rewards, share=share, name="most_covariant")
    graph.set("loss", use="importance-sampling", reduction=reduction, norm=norm)
    priced = distance(
        graph.policy_logprobs, found.old, found.chosen, coef=kl_cov_coef, reduction=reduction, norm=norm, name="priced"
    )
    graph.loss.replace_with(graph.loss + priced)
