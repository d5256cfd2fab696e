"""The recipe keeps what recipes promise, and its gradient is the policy gradient."""

import pytest
import torch

from dovetail import losses, recipes
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_testing.loss_checks import inputs, loss_and_gradients


@pytest.mark.parametrize("check", part_checks("recipes", "a2c"), ids=str)
def test_conformance(check):
    """It keeps what every recipe promises."""
    check()


def test_at_one_step_the_loss_has_the_gradient_of_the_policy_gradient():
    """At old = logprobs: -A by each token's log-prob, less the entropy bonus, over all tokens."""
    settings = recipes.a2c.trace()["loss"].settings()
    rollouts = tiny_rollouts()
    given = inputs(rollouts)
    given["logprobs"] = given["old_logprobs"]
    _, gradients = loss_and_gradients(losses.clipped(**settings), rollouts, given)
    count = len(rollouts.sampled.values)
    torch.testing.assert_close(gradients["logprobs"].values, -given["advantages"].values / count)
    assert gradients["entropy"].values.tolist() == pytest.approx([-0.01 / count] * count)


def test_its_advantage_is_the_return_less_the_value():
    """λ = 1, nothing whitened, no price of the reference; one step a batch."""
    graph = recipes.a2c.trace()
    chosen = graph["advantages"].settings()
    assert (chosen["lam"], chosen["whiten"], chosen["kl_coef"]) == (1.0, False, 0.0)
    assert graph.epochs * graph.minibatches == 1
    assert graph["value_loss"].settings()["clip"] is None
