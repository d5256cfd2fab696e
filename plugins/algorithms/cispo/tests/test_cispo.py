"""A bounded weight, and no lost gradient."""

from __future__ import annotations

import pytest
import torch

from dovetail import Ragged, losses, recipes
from dovetail.errors import OptionError, RecipeError
from dovetail.testing import part_checks
from dovetail_testing.loss_checks import pushes_by_advantage

OPTIONS = [{}, {"cap": 1.2, "floor": 0.8, "reduction": "sequence_mean"}]
CHECKS = [
    *(check for options in OPTIONS for check in part_checks("losses", "cispo", options=options)),
    *part_checks("recipes", "cispo"),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_on_policy_the_gradient_is_reinforce(options):
    """At old = logprobs the loss pushes by -advantage, averaged in its own way."""
    pushes_by_advantage(losses["cispo"](**options))


def test_what_the_new_loss_does_not_have_is_refused():
    """An option of the clipped loss that would do nothing is no silent one."""
    with pytest.raises(RecipeError, match="cispo has no option 'dual_clip'"):
        recipes["cispo"](dual_clip=3.0).trace()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"cap": 0.0}, "'cap' must be > 0"), ({"cap": 1.0, "floor": 2.0}, "floor must not be above cap = 1, got 2")],
)
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the part and the option."""
    with pytest.raises(OptionError, match=rf"losses part 'cispo'.*{told}"):
        losses["cispo"](**options)


def test_a_bounded_token_keeps_its_gradient():
    """The clip bounds the weight: the token pushes by the cap times its advantage."""
    old = Ragged.from_rows([torch.zeros(2)])
    live = old.with_values(torch.tensor([3.0, 0.5], requires_grad=True))
    found = losses.cispo(cap=2.0).instance.policy_terms(live, old, old.map(torch.ones_like))
    found.terms.values.sum().backward()
    torch.testing.assert_close(live.values.grad, -torch.tensor([2.0, 0.5]).exp().clamp(max=2.0))
    assert found.metrics["clip_fraction"].values.tolist() == [1.0, 0.0]
