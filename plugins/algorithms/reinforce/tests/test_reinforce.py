"""The policy gradient and its baselines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import Ragged, advantage_estimators, diff, losses, recipes
from dovetail.errors import OptionError, RecipeError
from dovetail.graph.complete import complete
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_testing.loss_checks import inputs, loss_and_gradients

RECIPES = ("reinforce", "reinforce-plus-plus", "reinforce-plus-plus-baseline", "rloo", "remax", "opo")
RETURNS = [{}, {"gamma": 0.9, "kl_coef": 0.1}, {"baseline": "group", "whiten": False}, {"baseline": "batch"}]
LOSSES = [{}, {"beta": 0.1, "kl_bias_correction": True}, {"correction": "truncate"}]
CHECKS = [
    *(check for options in RETURNS for check in part_checks("advantages", "returns", options=options)),
    *(check for options in LOSSES for check in part_checks("losses", "reinforce", options=options)),
    *part_checks("advantages", "opo"),
    *(check for name in RECIPES for check in part_checks("recipes", name)),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


ROW = st.tuples(st.integers(1, 5), st.floats(-2, 2), st.integers(0, 2))


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6), st.floats(0, 1), st.sampled_from(["none", "batch", "group"]))
def test_returns_are_the_textbook_sum(rows, gamma, baseline):
    """The reward less its baseline, discounted back from the last token; float64."""
    sampled = Ragged.from_rows([torch.zeros(length, dtype=torch.int64) for length, _, _ in rows])
    rewards = torch.tensor([reward for _, reward, _ in rows], dtype=torch.float64)
    groups = torch.tensor([group for _, _, group in rows])
    part = advantage_estimators.returns(gamma=gamma, baseline=baseline, whiten=False).instance
    found = part.estimate(rewards, groups, None, None, sampled)
    expected = []
    for length, reward, group in rows:
        others = [r for _, r, g in rows if baseline == "batch" or g == group]
        less = sum(others) / len(others) if baseline != "none" else 0.0
        expected += [gamma ** (length - 1 - t) * (reward - less) for t in range(length)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_penalty_stands_at_each_token():
    """And a token pays for all that follow it."""
    sampled = Ragged.from_rows([torch.zeros(3, dtype=torch.int64)])
    logprobs, ref = (Ragged.from_rows([torch.tensor(row)]) for row in ([-1.0, -2.0, -3.0], [-1.5, -2.0, -2.0]))
    part = advantage_estimators.returns(kl_coef=0.1, whiten=False).instance
    found = part.estimate(torch.tensor([1.0]), None, logprobs, ref, sampled)
    assert found.values.tolist() == pytest.approx([1.05, 1.1, 1.1])


def test_whitening_gives_mean_0_and_variance_1():
    """Over the tokens of the batch."""
    rollouts = tiny_rollouts()
    rewards = torch.randn(len(rollouts), generator=torch.Generator().manual_seed(0))
    found = advantage_estimators.returns().instance.estimate(rewards, None, None, None, rollouts.sampled).values
    assert found.mean().item() == pytest.approx(0, abs=1e-6)
    assert found.var().item() == pytest.approx(1, rel=1e-4)


def test_the_optimal_baseline_weighs_by_length():
    """Long completions count more in it; equal lengths give the mean."""
    groups, rewards = torch.zeros(2), torch.tensor([1.0, 0.0])
    for lengths, baseline in (((3, 1), 0.75), ((2, 2), 0.5)):
        sampled = Ragged.from_rows([torch.zeros(length, dtype=torch.int64) for length in lengths])
        found = advantage_estimators.opo().instance.estimate(rewards, groups, sampled)
        assert found.tolist() == [1 - baseline, -baseline]


def test_the_loss_is_the_policy_gradient():
    """Terms are -A logprobs, on policy and off."""
    rollouts = tiny_rollouts()
    given = inputs(rollouts, spread=1.0)
    gradient = loss_and_gradients(losses.reinforce(), rollouts, given)[1]["logprobs"]
    torch.testing.assert_close(gradient.values, -given["advantages"].values / len(gradient.values))


def test_a_penalty_in_the_reward_needs_the_reference_and_none_does_not():
    """The graph tells."""
    for name in ("rloo", "reinforce-plus-plus"):
        plain, penalised = recipes[name].trace(), recipes[name](kl_coef=0.1).trace()
        above = {loss.ref.node for loss in plain.losses} | {"advantages"}
        assert "ref_policy" not in plain.ancestors(["rewards"]) | plain.ancestors(above - {"loss"})
        assert "ref_policy" in complete(penalised).ancestors(["advantages"])


def test_reinforce_plus_plus_baseline_is_a_difference_of_reinforce_plus_plus():
    """A group's mean, and the penalty's estimator."""
    assert "~ completions.samples: 1 -> 8" in diff("reinforce-plus-plus", "reinforce-plus-plus-baseline")
    assert "~ advantages.baseline: 'none' -> 'group'" in diff("reinforce-plus-plus", "reinforce-plus-plus-baseline")


def test_remax_is_a_difference_of_reinforce():
    """A greedy completion of each prompt, its rewards, and their subtraction; no reference without a price."""
    told = str(diff("reinforce", "remax"))
    assert "+ greedy: generate(" in told
    assert "+ greedy_rewards: run_rewards(completions=greedy)" in told
    assert "- advantages.rewards" in told or "~ advantages.rewards" in told
    graph = recipes["remax"]().trace()
    assert (graph["greedy"].options["samples"], graph["greedy"].options["temperature"]) == (1, 0.0)
    assert "ref_policy" not in complete(graph).ancestors(["advantages"])


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("rloo", {"clip": 0.3}, "reinforce has no option 'clip'"),
        ("opo", {"scale": "batch"}, "opo has no option 'scale'"),
        ("reinforce", {"delta": 2.0}, "reinforce has no option 'delta'"),
    ],
)
def test_what_a_swapped_part_does_not_have_is_refused(name, options, told):
    """An option that would do nothing is no silent one."""
    with pytest.raises(RecipeError, match=told):
        recipes[name](**options).trace()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"gamma": 1.5}, "'gamma' must be <= 1"), ({"kl_coef": -1.0}, "'kl_coef' must be >= 0"), ({"baseline": "x"}, "x")],
)
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the part and the option."""
    with pytest.raises(OptionError, match=rf"advantages part 'returns'.*{told}"):
        advantage_estimators.returns(**options)
