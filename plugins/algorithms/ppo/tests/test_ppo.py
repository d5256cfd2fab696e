"""The recipe keeps what recipes promise, and hides no option of its parts."""

from __future__ import annotations

import attrs
import pytest

import dovetail as dt
from dovetail import advantage_estimators, losses, recipes
from dovetail.testing import part_checks

RENAMED = {"gae": {}, "clipped": {}, "value": {"clip": "value_clip"}}
#: what PPO of language models does otherwise than the bare part; the README says why
OWN_DEFAULTS = {"whiten": True, "kl_coef": 0.05}
#: a penalty in the loss beside the one in the reward would count twice; the others belong to reductions left out
LEFT_OUT = {"beta", "kl_estimator", "kl_bias_correction", "kl_clamp", "delta", "norm"}


@pytest.mark.parametrize("check", part_checks("recipes", "ppo"), ids=str)
def test_conformance(check):
    """It keeps what every recipe promises."""
    check()


@pytest.mark.parametrize(("kind", "name"), [(advantage_estimators, "gae"), (losses, "clipped"), (losses, "value")])
def test_every_option_of_the_parts_is_within_reach(kind, name):
    """With the part's own default, but for the few that are named above."""
    options = {option.name: option.default for option in recipes["ppo"].options}
    for field in attrs.fields(kind[name].target):
        if field.init and not (name == "clipped" and field.name in LEFT_OUT):
            called = RENAMED[name].get(field.name, field.name)
            assert options[called] == OWN_DEFAULTS.get(called, field.default), called


def test_options_reach_the_graph():
    """The weight of the value loss, the loops, the steps of value pre-training."""
    graph = recipes.ppo(vf_coef=0.5, epochs=2, minibatches=3, value_pretraining=7, value_clip=None).trace()
    policy, value = graph.losses
    assert (policy.after, policy.weight, value.after, value.weight) == (7, 1.0, 0, 0.5)
    assert (graph.epochs, graph.minibatches) == (2, 3)
    assert graph["value_loss"].settings()["clip"] is None
    assert str(graph["value_loss"].inputs["returns"]) == "advantages.returns"


def test_a_value_model_is_needed():
    """Compiled by hand, every agent is named by its maker."""
    policy = dt.Agent.tiny(hidden=16, layers=1, heads=2, trainable=True)
    with pytest.raises(dt.RecipeError, match="the agent 'value_model' is missing"):
        dt.compile(recipes.ppo(kl_coef=0.0), policy=policy, rewards=[lambda texts: [0.0 for _ in texts]])
