"""The estimator, the loss and the recipe: their definitions, written again as plain float64 loops."""

from __future__ import annotations

import math
import statistics

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import Ragged, diff, losses, recipes
from dovetail.errors import OptionError, PartNotFound
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_grpo.clipped import ClippedLoss
from dovetail_grpo.group import GroupAdvantages
from dovetail_grpo.policy import REDUCTIONS, PolicyLoss
from dovetail_grpo.terms import bounded, kl_terms, sampler_ratios
from dovetail_testing.loss_checks import inputs

ESTIMATORS = [
    {},
    {"scale": "none"},
    {"scale": "batch"},
    {"baseline": "leave_one_out", "scale": "none"},
    {"baseline": "none"},
    {"combine": "normalize_then_sum"},
    {"spread": "leave_one_out", "baseline": "leave_one_out"},
]
PRESETS = ("trl", "verl", "nemo", "openrlhf", "prime-rl")
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
    *part_checks("losses", "dppo"),
    *part_checks("recipes", "grpo"),
    *(check for preset in PRESETS for check in part_checks("recipes", f"grpo-{preset}")),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


def reference_batch(rewards, groups, baseline, eps):
    """Differences over the sample standard deviation of all differences."""
    differences = reference_group(rewards, groups, "none", baseline, eps)
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return [difference / (spread + eps) if spread > 1e-9 else 0.0 for difference in differences]


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
    found = part.estimate(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), None, None)
    assert found.tolist() == pytest.approx(reference_group(rewards, groups, scale, baseline, 1e-4), abs=1e-9)


@settings(deadline=None)
@given(numbers, st.sampled_from(["mean", "leave_one_out", "none"]))
def test_batch_scale_is_its_definition(rows, baseline):
    """One spread for the whole batch, float64."""
    rewards, groups = [r for r, _ in rows], [g for _, g in rows]
    part = GroupAdvantages(scale="batch", baseline=baseline)
    found = part.estimate(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), None, None)
    assert found.tolist() == pytest.approx(reference_batch(rewards, groups, baseline, 1e-4), abs=1e-9)


@settings(deadline=None)
@given(numbers, st.integers(0, 99))
def test_gdpo_is_its_definition(rows, seed):
    """Each reward is normalised in its group, then their weighted sum over the batch; float64."""
    groups = [g for _, g in rows]
    second = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parts = {"first": torch.tensor([r for r, _ in rows], dtype=torch.float64), "second": second}
    scores = [reference_group(part.tolist(), groups, "group", "mean", 1e-4) for part in parts.values()]
    weights = {"first": 1.0, "second": 0.3}
    sums = [sum(w * z for w, z in zip(weights.values(), pair, strict=True)) for pair in zip(*scores, strict=True)]
    spread = statistics.stdev(sums) if len(sums) > 1 else 0.0
    expected = [(value - statistics.fmean(sums)) / (spread + 1e-4) if spread else 0.0 for value in sums]
    part = GroupAdvantages(combine="normalize_then_sum")
    found = part.estimate(sum(parts.values()), torch.tensor(groups), parts, weights)
    assert found.tolist() == pytest.approx(expected, abs=1e-7)


@settings(deadline=None)
@given(numbers, st.floats(-5, 5), st.floats(0.1, 10))
def test_group_advantages_know_no_shift_and_no_scale(rows, shift, factor):
    """Adding a constant changes nothing; with eps=0 neither does a positive factor."""
    rewards = torch.tensor([r for r, _ in rows], dtype=torch.float64)
    groups = torch.tensor([g for _, g in rows])
    part = GroupAdvantages(eps=0.0)
    base = part.estimate(rewards, groups, None, None)
    torch.testing.assert_close(part.estimate(rewards + shift, groups, None, None), base, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(part.estimate(rewards * factor, groups, None, None), base, atol=1e-7, rtol=1e-7)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 1.0, -2.0]), min_size=1, max_size=9))
def test_the_spread_of_the_others_is_its_definition(rewards):
    """Difference to the mean of the others over their sample standard deviation; without spread it stays."""
    part = GroupAdvantages(baseline="leave_one_out", spread="leave_one_out", eps=1e-6)
    found = part.estimate(torch.tensor(rewards, dtype=torch.float64), torch.zeros(len(rewards)), None, None)
    expected = []
    for row, reward in enumerate(rewards):
        others = [*rewards[:row], *rewards[row + 1 :]]
        difference = reward - statistics.fmean(others) if others else 0.0
        spread = statistics.stdev(others) if len(others) > 1 else 0.0
        expected.append(difference / (spread + 1e-6) if spread > 1e-6 else difference)
    assert found.tolist() == pytest.approx(expected, abs=1e-7)


def test_gdpo_normalises_each_reward_by_itself():
    """A reward a hundred times larger does not drown the other."""
    groups = torch.tensor([0, 0, 1, 1])
    parts = {"large": torch.tensor([0.0, 100.0, 0.0, 0.0]), "small": torch.tensor([0.0, 0.0, 1.0, 0.0])}
    found = GroupAdvantages(combine="normalize_then_sum").estimate(
        sum(parts.values()), groups, parts, {"large": 1.0, "small": 1.0}
    )
    assert found[1].item() == pytest.approx(found[2].item(), rel=1e-3)


def test_gdpo_counts_a_reward_by_its_weight():
    """With eps=0 the size of a reward changes nothing, and its weight scales its share of the sum."""
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    first = torch.tensor([0.0, 1.0, 3.0, 2.0, 2.0, 5.0], dtype=torch.float64)
    second = torch.tensor([4.0, 1.0, 1.0, 0.0, 6.0, 1.0], dtype=torch.float64)
    part = GroupAdvantages(combine="normalize_then_sum", eps=0.0)

    def credit(size, weight):
        return part.estimate(first, groups, {"a": first, "b": size * second}, {"a": 1.0, "b": weight})

    def z(rewards):
        return torch.cat([(g - g.mean()) / g.std() for g in rewards.split(3)])

    torch.testing.assert_close(credit(1.0, 0.5), credit(100.0, 0.5))
    total = z(first) + 0.5 * z(second)
    torch.testing.assert_close(credit(1.0, 0.5), (total - total.mean()) / total.std())
    assert not torch.allclose(credit(1.0, 0.5), credit(1.0, 2.0))


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
    weights = bounded(sampler_ratios(old, old, level), correction, 2.0, 0.5)
    assert weights.values.tolist() == [1.0] * len(old.values)


@pytest.mark.parametrize(("correction", "weight"), [("truncate", 2.0), ("mask", 0.0)])
def test_a_long_sequence_far_off_the_sampler_stays_finite(correction, weight):
    """The product of 1000 ratios of e leaves float32; its weight is still the bound."""
    old = Ragged.from_rows([torch.full((1000,), -1.0)])
    part = ClippedLoss(correction=correction, correction_level="sequence")
    found = part.loss_terms(old.map(torch.ones_like), old, None, old, old.map(lambda v: v - 1.0), None)
    assert found.terms.values.tolist() == [-weight] * 1000
    assert bool(torch.isfinite(found.metrics["sampler_ratio"].values).all())


def test_the_raw_sampler_ratio_is_logged_beside_the_weight():
    """Bounds change the weight, not the ratio."""
    old = Ragged.from_rows([torch.tensor([-1.0, -1.0])])
    sampled = Ragged.from_rows([torch.tensor([-1.0, -3.0])])
    part = ClippedLoss(correction="truncate")
    metrics = part.loss_terms(old.map(torch.ones_like), old, None, old, sampled, None).metrics
    assert metrics["sampler_ratio"].values.tolist() == pytest.approx([1.0, math.exp(2.0)])
    assert metrics["sampler_weight"].values.tolist() == [1.0, 2.0]


def test_without_a_correction_the_sampler_changes_nothing():
    """Also where its log-probs are given."""
    given = inputs(tiny_rollouts())
    arguments = [given[name] for name in ("advantages", "logprobs")] + [None, given["old_logprobs"]]
    far = given["old_logprobs"].map(lambda values: values - 5.0)
    with_sampler = ClippedLoss().loss_terms(*arguments, far, None)
    assert torch.equal(with_sampler.terms.values, ClippedLoss().loss_terms(*arguments, None, None).terms.values)


def test_clip_fractions_count_tokens_that_the_clip_stops():
    """Low ones with a negative advantage, high ones with a positive advantage."""
    old = Ragged.from_rows([torch.zeros(4)])
    logprobs = old.with_values(torch.tensor([0.5, 1.5, 0.5, 1.5]).log())
    advantages = old.with_values(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    metrics = ClippedLoss().loss_terms(advantages, logprobs, None, old, None, None).metrics
    assert metrics["clip_fraction_low"].values.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert metrics["clip_fraction_high"].values.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert metrics["clip_fraction"].values.tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_arguments_that_options_leave_unused_may_be_none(options):
    """What ``ignores`` names is never read."""
    part, given = ClippedLoss(**options), inputs(tiny_rollouts())
    ports = ("advantages", "logprobs", "ref_logprobs", "old_logprobs", "sampled_logprobs", "entropy")
    found = part.loss_terms(**{name: None if name in part.ignores() else given[name] for name in ports})
    assert torch.equal(found.terms.values, part.loss_terms(**{name: given[name] for name in ports}).terms.values)


def policy_gradient_of_kl(estimator, corrected):
    """The expected gradient of an estimator on policy, over all tokens of a vocabulary of three."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    logprobs, ref = torch.log_softmax(logits, 0), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    rows = Ragged.from_rows([torch.zeros(3)])
    terms = kl_terms(rows.with_values(logprobs), rows.with_values(ref), estimator).values
    ratio = (logprobs - logprobs.detach()).exp() if corrected else 1.0
    (logprobs.detach().exp() * terms * ratio).sum().backward()
    return logits.grad


def gradient_of_kl(direction):
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    logprobs, ref = torch.log_softmax(logits, 0), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    {
        "policy": (logprobs.exp() * (logprobs - ref)).sum(),
        "reference": (ref.exp() * (ref - logprobs)).sum(),
        "nothing": logprobs.sum() * 0,
    }[direction].backward()
    return logits.grad


@pytest.mark.parametrize(
    ("estimator", "corrected", "direction"),
    [
        ("k1", False, "nothing"),
        ("k2", False, "policy"),
        ("k3", False, "reference"),
        ("k1", True, "policy"),
        ("k3", True, "policy"),
    ],
)
def test_kl_estimators_have_the_gradients_that_are_documented(estimator, corrected, direction):
    """In expectation over the policy's own tokens, with and without the bias correction."""
    torch.testing.assert_close(policy_gradient_of_kl(estimator, corrected), gradient_of_kl(direction))


def test_the_recipe_passes_every_option_of_its_parts_on():
    """No option of the estimator or the loss is out of reach, and none has another default."""
    options = {option.name: option.default for option in recipes["grpo"].options}
    for part in (GroupAdvantages, ClippedLoss):
        for field in attrs.fields(part):
            assert options[field.name] == field.default, field.name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"clip": 0.0}, "'clip' must be > 0"),
        ({"dual_clip": 0.5}, "'dual_clip' must be > 1"),
        ({"delta": 1.1}, r"delta must be above 1 \+ clip_high = 1.2, got 1.1"),
        ({"reduction": "sequence_sum_norm"}, "norm belongs to reduction='sequence_sum_norm'"),
        ({"norm": 3.0}, "norm belongs to reduction='sequence_sum_norm'"),
        ({"correction": "mask", "correction_floor": 3.0}, "correction_floor must not be above correction_cap = 2"),
        ({"kl_estimator": "k4"}, "kl_estimator"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the part and the option."""
    with pytest.raises(OptionError, match=rf"losses part 'clipped'.*{told}"):
        losses.clipped(**options)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_recipe_of_its_own(preset):
    """By its name, or as grpo's preset; further options go on top, and those set before stay."""
    graph = recipes.grpo(group_size=5)(preset=preset, epochs=2).trace()
    assert graph["completions"].options["samples"] == 5
    assert graph.epochs == 2
    other = recipes[f"grpo-{preset}"](group_size=5, epochs=2)
    assert not diff(graph, other)
    assert diff("grpo", f"grpo-{preset}")


def test_a_preset_that_is_not_there_is_refused():
    """The error names the nearest."""
    with pytest.raises(PartNotFound, match="no recipes part is named 'grpo-ver'\n  try: did you mean 'grpo-verl'"):
        recipes.grpo(preset="ver")


def test_dppo_masks_by_probability():
    """A token far above the sampler pushes no further up, and still down; the squared log-ratio stays."""
    sampled = Ragged.from_rows([torch.tensor([0.5, 0.5, 0.9]).log()])
    live = sampled.with_values(torch.tensor([0.8, 0.8, 0.6]).log().requires_grad_())
    found = losses.dppo(tau=0.0).instance.loss_terms(live.with_values(live.values * 0 + 1.0), live, sampled)
    assert found.metrics["clip_fraction"].values.tolist() == [1.0, 1.0, 0.0]
    found = losses.dppo(tau=0.0).instance.loss_terms(live.with_values(live.values * 0 - 1.0), live, sampled)
    assert found.metrics["clip_fraction"].values.tolist() == [0.0, 0.0, 1.0]
    found = losses.dppo(tau=1.0).instance.loss_terms(live.with_values(live.values * 0), live, sampled)
    torch.testing.assert_close(found.terms.values, (live.values - sampled.values) ** 2)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (GroupAdvantages(), "A = (R − mean of the group) / (std of the group + 0.0001), R the weighted total"),
        (GroupAdvantages(scale="none", baseline="leave_one_out"), "A = R − mean of the others, R the weighted total"),
        (
            ClippedLoss(clip_high=0.28),
            "L = −min(r A, clip(r, 0.8, 1.28) A), r = exp(lp − old)\naveraged over all tokens",
        ),
        (ClippedLoss(beta=0.1), "+ 0.1 (exp(d) − d − 1), d = ref − lp"),
    ],
)
def test_a_part_tells_its_formula_with_its_options(part, told):
    """In words and symbols."""
    assert told in part.formula()


def test_a_loss_without_its_own_formula_says_which_method_it_lacks():
    """The subclass is named, not the base."""

    @attrs.frozen
    class Unfinished(PolicyLoss):
        pass

    with pytest.raises(NotImplementedError, match=r"Unfinished does not implement policy_terms\(\)"):
        Unfinished().policy_terms(None, None, None)
    with pytest.raises(NotImplementedError, match=r"Unfinished does not implement policy_formula\(\)"):
        Unfinished().formula()
