"""The estimator, the loss and the recipe: their definitions, written again as plain float64 loops."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import losses
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_rollouts
from dovetail.testing.loss_checks import inputs
from dovetail_grpo.clipped import REDUCTIONS, ClippedLoss
from dovetail_grpo.group import GroupAdvantages
from dovetail_grpo.terms import sampler_weights

ESTIMATORS = [
    {},
    {"scale": "none"},
    {"scale": "batch"},
    {"baseline": "leave_one_out", "scale": "none"},
    {"baseline": "none"},
    {"combine": "normalize_then_sum"},
]
LOSSES = [
    {},
    {"beta": 0.1, "kl_bias_correction": True, "entropy_coef": 0.01},
    {"beta": 0.1, "kl_estimator": "k1"},
    {"beta": 0.1, "kl_estimator": "k2", "kl_clamp": True},
    {"dual_clip": 3.0, "clip_high": 0.28},
    {"delta": 1.5},
    {"correction": "truncate", "correction_level": "geometric"},
    {"correction": "mask", "correction_level": "sequence"},
    *({"reduction": name, "norm": 9.0 if name == "sequence_sum_norm" else None} for name in REDUCTIONS),
]
CHECKS = [
    *(check for options in ESTIMATORS for check in part_checks("advantages", "group", options=options)),
    *(check for options in LOSSES for check in part_checks("losses", "clipped", options=options)),
    *part_checks("recipes", "grpo"),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


def reference_group(rewards, groups, scale, baseline, eps):
    """numerics of GRPO, group by group, in Python floats."""
    out = []
    for reward, group in zip(rewards, groups, strict=True):
        members = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        mean = statistics.fmean(members)
        if baseline == "leave_one_out":
            difference = reward - (sum(members) - reward) / (len(members) - 1) if len(members) > 1 else 0.0
        else:
            difference = reward - mean if baseline == "mean" else reward
        if scale == "group":
            spread = statistics.stdev(members) if len(members) > 1 else 0.0
            difference = difference / (spread + eps) if spread > 1e-6 else 0.0
        elif len(members) == 1 and baseline != "none":
            difference = 0.0
        out.append(difference)
    return out


numbers = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0, -2.0, 3.5]), st.integers(0, 3)), min_size=1, max_size=12)


@settings(deadline=None)
@given(numbers, st.sampled_from(["group", "none"]), st.sampled_from(["mean", "leave_one_out", "none"]))
def test_group_advantages_are_their_definition(rows, scale, baseline):
    """Against loops over groups, float64."""
    rewards, groups = [r for r, _ in rows], [g for _, g in rows]
    part = GroupAdvantages(scale=scale, baseline=baseline)
    found = part.estimate(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), {})
    assert found.tolist() == pytest.approx(reference_group(rewards, groups, scale, baseline, 1e-4), abs=1e-9)


@settings(deadline=None)
@given(numbers, st.floats(-5, 5), st.floats(0.1, 10))
def test_group_advantages_know_no_shift_and_no_scale(rows, shift, factor):
    """Adding a constant changes nothing; with eps=0 neither does a positive factor."""
    rewards = torch.tensor([r for r, _ in rows], dtype=torch.float64)
    groups = torch.tensor([g for _, g in rows])
    part = GroupAdvantages(eps=0.0)
    base = part.estimate(rewards, groups, {})
    torch.testing.assert_close(part.estimate(rewards + shift, groups, {}), base, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(part.estimate(rewards * factor, groups, {}), base, atol=1e-7, rtol=1e-7)


def test_gdpo_normalises_each_reward_by_itself():
    """A reward a hundred times larger does not drown the other."""
    groups = torch.tensor([0, 0, 1, 1])
    parts = {"large": torch.tensor([0.0, 100.0, 0.0, 0.0]), "small": torch.tensor([0.0, 0.0, 1.0, 0.0])}
    found = GroupAdvantages(combine="normalize_then_sum").estimate(sum(parts.values()), groups, parts)
    assert found[1].item() == pytest.approx(found[2].item(), rel=1e-3)


def reference_term(row, o):
    """One token of the clipped loss, from the formulas."""
    ratio = math.exp(row["logprobs"] - row["old_logprobs"])
    high = o.clip if o.clip_high is None else o.clip_high
    advantage = row["advantages"]
    opened = min(ratio, o.delta) if o.delta is not None else ratio
    gain = min(opened * advantage, min(max(ratio, 1 - o.clip), 1 + high) * advantage)
    if o.dual_clip is not None and advantage < 0:
        gain = max(gain, o.dual_clip * advantage)
    term = -gain
    if o.correction != "none":
        weight = math.exp(row["weight_gap"])
        if o.correction == "truncate":
            weight = min(weight, o.correction_cap)
        elif not o.correction_floor <= weight <= o.correction_cap:
            weight = 0.0
        term *= weight
    if o.beta:
        gap = row["ref_logprobs"] - row["logprobs"]
        if o.kl_clamp:
            gap = min(max(gap, -20), 20)
        kl = {"k1": -gap, "k2": gap * gap / 2, "k3": math.exp(gap) - gap - 1}[o.kl_estimator]
        kl = min(max(kl, -10), 10) if o.kl_clamp else kl
        term += o.beta * kl * (ratio if o.kl_bias_correction else 1.0)
    return term - o.entropy_coef * row["entropy"]


@pytest.mark.parametrize("options", LOSSES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_clipped_terms_are_their_definition(options, seed):
    """Token by token against Python floats, and the gradient against central differences."""
    part, rollouts = ClippedLoss(**options), tiny_rollouts()
    given = inputs(rollouts, seed=seed, spread=0.6)
    logprobs = given["logprobs"].with_values(given["logprobs"].values.clone().requires_grad_())
    needed = {name: value for name, value in given.items() if name in (
        "advantages", "ref_logprobs", "old_logprobs", "sampled_logprobs", "entropy"
    )}  # fmt: skip
    needed = {name: None if name in part.ignores() else value for name, value in needed.items()}
    found = part.loss_terms(logprobs=logprobs, **needed).terms
    gaps = given["old_logprobs"] - given["sampled_logprobs"]
    if part.correction_level != "token":
        gaps = gaps.spread(gaps.sum() if part.correction_level == "sequence" else gaps.mean())
    columns = {**{name: value.values.tolist() for name, value in given.items()}, "weight_gap": gaps.values.tolist()}
    tokens = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert found.values.tolist() == pytest.approx([reference_term(token, part) for token in tokens], abs=1e-9)

    found.values.sum().backward()
    step = 1e-6
    for place in range(0, len(tokens), 7):
        up = {**tokens[place], "logprobs": tokens[place]["logprobs"] + step}
        down = {**tokens[place], "logprobs": tokens[place]["logprobs"] - step}
        slope = (reference_term(up, part) - reference_term(down, part)) / (2 * step)
        assert logprobs.values.grad[place].item() == pytest.approx(slope, abs=1e-5)


def test_on_policy_the_gradient_is_reinforce():
    """At old = logprobs every clipped loss pushes by -advantage."""
    given = inputs(tiny_rollouts())
    logprobs = given["old_logprobs"].with_values(given["old_logprobs"].values.clone().requires_grad_())
    for options in ({}, {"dual_clip": 3.0}, {"delta": 2.0}, {"clip_high": 0.28}):
        logprobs.values.grad = None
        terms = ClippedLoss(**options).loss_terms(
            given["advantages"], logprobs, None, given["old_logprobs"], None, None
        )
        terms.terms.values.sum().backward()
        torch.testing.assert_close(logprobs.values.grad, -given["advantages"].values)


@pytest.mark.parametrize("correction", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_the_sampler_correction_is_one_for_the_same_sampler(correction, level):
    """No weight where sampler and trainer agree."""
    old = inputs(tiny_rollouts())["old_logprobs"]
    weights = sampler_weights(old, old, correction, level, 2.0, 0.5)
    assert weights.values.tolist() == [1.0] * len(old.values)


@pytest.mark.parametrize(
    "options",
    [
        {"clip": 0.0},
        {"dual_clip": 0.5},
        {"delta": 1.1},
        {"reduction": "sequence_sum_norm"},
        {"norm": 3.0},
        {"kl_estimator": "k4"},
    ],
)
def test_options_that_do_not_fit_are_refused(options):
    """The error names the part."""
    with pytest.raises(OptionError, match="losses part 'clipped'"):
        losses.clipped(**options)
