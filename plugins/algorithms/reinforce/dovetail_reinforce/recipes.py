"""The recipes, as differences from grpo and from one another."""

from __future__ import annotations

from typing import Any, Literal

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(group_size=1))
def reinforce(
    graph: Any, *, gamma: float = 1.0, baseline: Literal["none", "batch", "group"] = "batch", whiten: bool = False
) -> None:
    """REINFORCE (Williams 1992): the policy gradient of returns, less a baseline; one completion for a prompt.

    Args:
        gamma: See the estimator ``returns``.
        baseline: See the estimator ``returns``.
        whiten: See the estimator ``returns``.
    """
    graph.set("advantages", use="returns", gamma=gamma, baseline=baseline, whiten=whiten)
    graph.set("loss", use="reinforce")


@dt.algorithm(using=dt.recipes.grpo(group_size=1))
def reinforce_plus_plus(
    graph: Any, *, gamma: float = 1.0, kl_coef: float = 0.0, baseline: Literal["none", "batch", "group"] = "none"
) -> None:
    """REINFORCE++ (Hu 2025, arXiv 2501.03262): returns whitened over the batch, under PPO's clip.

    Args:
        gamma: See the estimator ``returns``.
        kl_coef: Weight of the KL penalty in the reward; 0 loads no reference model. ``beta`` puts it into the loss.
        baseline: See the estimator ``returns``.
    """
    graph.set("advantages", use="returns", gamma=gamma, kl_coef=kl_coef, baseline=baseline, whiten=True)


@dt.algorithm(using=reinforce_plus_plus(group_size=8, baseline="group", kl_estimator="k2"))
def reinforce_plus_plus_baseline(graph: Any) -> None:
    """REINFORCE++ with the group's mean as a baseline (Hu 2025, arXiv 2501.03262, section 3.4); its KL is k2, by ``beta``."""


@dt.op
def penalised(rewards: Any, logprobs: dt.Ragged, ref_logprobs: dt.Ragged, kl_coef: float) -> Any:
    """Rewards ``[B]`` less the summed log-ratio to the reference."""
    return rewards - kl_coef * (logprobs - ref_logprobs).sum()


@dt.algorithm(using=dt.recipes.grpo(baseline="leave_one_out", scale="none", reduction="sequence_sum_mean"))
def rloo(graph: Any, *, kl_coef: float = 0.0) -> None:
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): the others' mean is the baseline.

    Args:
        kl_coef: Weight of the KL penalty in the reward; 0 loads no reference model. ``beta`` puts it into the loss.
    """
    if kl_coef:
        graph.rewards.replace_with(penalised(graph.rewards, graph.policy_logprobs, graph.ref_logprobs, kl_coef=kl_coef))
    graph.set("loss", use="reinforce")


@dt.op
def for_each_sample(scores: dt.Scores, completions: dt.Rollouts) -> dt.Scores:
    """The scores of prompts ``[P]``, for each of their completions ``[B]``; an invalid one makes all of those invalid."""
    return scores.select(completions.groups)


@dt.algorithm(using=reinforce(baseline="none", reduction="sequence_sum_mean"))
def remax(graph: Any, *, kl_coef: float = 0.0) -> None:
    """ReMax (Li et al. 2023, arXiv 2310.10505): the baseline is the reward of the greedy completion of the same prompt.

    Args:
        kl_coef: Weight of the KL penalty in the reward; 0 loads no reference model. ``beta`` puts it into the loss.
    """
    greedy = dt.generate(graph.policy, graph.prompts, temperature=0.0, name="greedy")
    baselines = for_each_sample(dt.run_rewards(greedy, name="greedy_rewards"), graph.completions, name="baselines")
    graph.set("advantages", kl_coef=kl_coef)
    graph.wire("advantages", rewards=graph.rewards - baselines, rollouts=graph.completions)
    graph.wire("loss", rollouts=graph.completions)


@dt.algorithm(using=dt.recipes.grpo)
def opo(graph: Any) -> None:
    """On-policy RL with the optimal reward baseline (Hao et al. 2025, arXiv 2505.23585): no ratio, no penalty."""
    graph.set("advantages", use="opo")
    graph.set("loss", use="reinforce")
