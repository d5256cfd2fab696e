"""A soft gate on the ratio."""

from __future__ import annotations

import pytest

from dovetail import losses, recipes
from dovetail.errors import OptionError, RecipeError
from dovetail.testing import part_checks
from dovetail_testing.loss_checks import pushes_by_advantage

OPTIONS = [{}, {"tau_positive": 2.0, "tau_negative": 3.0, "reduction": "sequence_mean"}]
CHECKS = [
    *(check for options in OPTIONS for check in part_checks("losses", "sapo", options=options)),
    *part_checks("recipes", "sapo"),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_on_policy_the_gradient_is_reinforce(options):
    """At old = logprobs the loss pushes by -advantage, averaged in its own way."""
    pushes_by_advantage(losses["sapo"](**options))


def test_what_the_new_loss_does_not_have_is_refused():
    """An option of the clipped loss that would do nothing is no silent one."""
    with pytest.raises(RecipeError, match="sapo has no option 'dual_clip'"):
        recipes["sapo"](dual_clip=3.0).trace()


@pytest.mark.parametrize(("options", "told"), [({"tau_positive": 0.0}, "'tau_positive' must be > 0")])
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the part and the option."""
    with pytest.raises(OptionError, match=rf"losses part 'sapo'.*{told}"):
        losses["sapo"](**options)
