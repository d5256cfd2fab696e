"""Estimators that need no value model, beside TRL's own trainers and the papers."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import trl_side
from policy_cases import batch, shown
from torch import Tensor

import dovetail as dt
from parity import Side, case

Estimate = Callable[[Tensor, Tensor], Tensor]  # rewards [B, K] and lengths [B] to advantages [B]


def estimator_case(
    name: str, options: dict[str, Any], peer: str, theirs: Estimate, parts: int = 1, **further: Any
) -> None:
    """An estimator of ours and one that takes ``[B, parts]`` rewards of groups of four."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, _ = batch(seed, dtype)
        draw = torch.Generator().manual_seed(seed)
        rewards = torch.rand((len(rollouts), parts), generator=draw, dtype=dtype)
        facts = {
            "rewards": rewards.sum(1), "groups": rollouts.groups, "sampled": rollouts.sampled,
            "reward_parts": dict(enumerate(rewards.unbind(1))), "reward_weights": dict.fromkeys(range(parts), 1.0),
        }  # fmt: skip
        part = dt.advantage_estimators[name](**options)
        asked = {key: facts[key] for key in part.asks_for("estimate") if key in facts}
        return (part.call("estimate", asked), {}), (theirs(rewards, rollouts.sampled.lengths), {})

    case(shown(name, options), peer, **further)(run)


def trl(name: str, **options: Any) -> Estimate:
    return lambda rewards, lengths: trl_side.advantages(name, options, rewards)


single = {"dtypes": (torch.float32,)}  # TRL takes Bessel's correction in float32, whatever the rewards are
estimator_case("group", {}, "trl", trl("GRPO"), **single)
estimator_case("group", {"scale": "none"}, "trl", trl("GRPO", scale_rewards="none"))
separately = trl("GRPO", multi_objective_aggregation="normalize_then_sum")
estimator_case("group", {"combine": "normalize_then_sum"}, "trl", separately, parts=2, **single)
estimator_case("group", {"baseline": "leave_one_out", "scale": "none"}, "trl", trl("RLOO"))


def by_group(one: Callable[[list[float], list[int]], list[float]]) -> Estimate:
    """An estimator of one group in Python floats, for groups of four."""

    def theirs(rewards: Tensor, lengths: Tensor) -> Tensor:
        groups = zip(rewards.sum(1).double().split(4), lengths.split(4), strict=True)
        return torch.tensor([x for r, n in groups for x in one(r.tolist(), n.tolist())], dtype=torch.float64)

    return theirs


@by_group
def optimal_baseline(rewards: list[float], lengths: list[int]) -> list[float]:
    """Equation 7 of OPO."""
    baseline = sum(n * r for n, r in zip(lengths, rewards, strict=True)) / sum(lengths)
    return [reward - baseline for reward in rewards]


@by_group
def likelihood(rewards: list[float], lengths: list[int]) -> list[float]:
    """MaxRL: the reward over the group's mean, less one."""
    mean = sum(rewards) / len(rewards)
    return [reward / mean - 1 for reward in rewards]


@by_group
def others(rewards: list[float], lengths: list[int]) -> list[float]:
    """NeMo-RL's leave-one-out: mean and sample spread of the others."""
    rest = [[*rewards[:row], *rewards[row + 1 :]] for row in range(len(rewards))]
    return [(r - statistics.fmean(o)) / (statistics.stdev(o) + 1e-6) for r, o in zip(rewards, rest, strict=True)]


estimator_case("opo", {}, "Hao et al. 2025 (2505.23585)", optimal_baseline)
estimator_case("maxrl", {"eps": 0.0}, "Tajwar et al. 2026 (2602.02710)", likelihood)
nemo = {"baseline": "leave_one_out", "spread": "leave_one_out", "eps": 1e-6}
estimator_case("group", nemo, "NeMo-RL's definition", others)


def returns_case(options: dict[str, Any], source: str) -> None:
    """``returns`` and the sum of each token's own and later rewards, in Python floats."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        rewards = torch.rand(len(rollouts), generator=torch.Generator().manual_seed(seed), dtype=dtype)
        part = dt.advantage_estimators["returns"](**options).instance
        lp, ref = given["logprobs"], given["ref_logprobs"]
        found = part.estimate(rewards, rollouts.groups, lp, ref, rollouts.sampled)
        theirs = later_rewards(rewards, rollouts.groups, lp, ref, options)
        return (found.values, {}), (torch.tensor(theirs, dtype=torch.float64), {})

    case(shown("returns", options), source)(run)


def later_rewards(rewards: Tensor, groups: Tensor, lp: dt.Ragged, ref: dt.Ragged, o: dict[str, Any]) -> list[float]:
    """Section 3 of REINFORCE++: r_k is the penalty, and the reward at the last token; A_t = Σ_{k ≥ t} γ^(k - t) r_k."""
    found: list[float] = []
    for row, (live, other) in enumerate(zip(lp.tolist(), ref.tolist(), strict=True)):
        mates = rewards[groups == groups[row]].double().mean().item() if o.get("baseline") == "group" else 0.0
        steps = [-o.get("kl_coef", 0.0) * (a - b) for a, b in zip(live, other, strict=True)]
        steps[-1] += rewards[row].item() - mates
        gamma = o.get("gamma", 1.0)
        found += [sum(gamma ** (k - t) * steps[k] for k in range(t, len(steps))) for t in range(len(steps))]
    if not o.get("whiten", True):
        return found
    mean, spread = statistics.fmean(found), statistics.variance(found)
    return [(credit - mean) / (spread + 1e-8) ** 0.5 for credit in found]


HU = "Hu 2025 (2501.03262)"
for options, source in [
    ({"gamma": 0.9, "whiten": False}, "Williams 1992"),
    ({}, HU),
    ({"kl_coef": 0.1}, HU),
    ({"kl_coef": 0.1, "baseline": "group"}, HU),
]:
    returns_case(options, source)
