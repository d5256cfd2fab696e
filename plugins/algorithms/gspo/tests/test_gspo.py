"""One ratio for a sequence."""

from __future__ import annotations

import pytest
import torch

import dovetail as dt
from dovetail import losses
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_agent, tiny_rollouts
from dovetail_testing.loss_checks import inputs, loss_and_gradients, pushes_by_advantage

OPTIONS = [
    {"reduction": "sequence_mean"},
    {"reduction": "sequence_mean", "level": "token", "clip": 0.2, "clip_high": None},
]
CHECKS = [
    *(check for options in OPTIONS for check in part_checks("losses", "gspo", options=options)),
    *part_checks("recipes", "gspo"),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises, whatever its options."""
    check()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_on_policy_the_gradient_is_reinforce(options):
    """At old = logprobs the loss pushes by -advantage, averaged in its own way."""
    pushes_by_advantage(losses["gspo"](**options))


@pytest.mark.parametrize(("options", "told"), [({"level": "word"}, "level"), ({"clip": 0.0}, "'clip' must be > 0")])
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the part and the option."""
    with pytest.raises(OptionError, match=rf"losses part 'gspo'.*{told}"):
        losses["gspo"](**options)


def length(completions):
    """A reward."""
    return completions.lengths.float()


def test_a_token_mean_is_advised_against():
    """One ratio for a sequence, and long sequences would weigh more."""
    options = {"policy": tiny_agent(trainable=True), "rewards": [length], "reduction": "token_mean"}
    compiled = dt.compile("gspo", **options)
    assert "use sequence_mean" in compiled.warnings[0]


def test_the_levels_agree_in_value_and_differ_in_where_the_gradient_goes():
    """GSPO-token gives each token its own push; the sequence level spreads the mean."""
    rollouts = tiny_rollouts()
    given = inputs(rollouts, spread=1e-4)
    sides = [
        loss_and_gradients(losses.gspo(level=level, reduction="sequence_mean"), rollouts, given)
        for level in ("sequence", "token")
    ]
    torch.testing.assert_close(sides[0][0], sides[1][0])
    sums = [side[1]["logprobs"].sum() for side in sides]
    assert not torch.allclose(sides[0][1]["logprobs"].values, sides[1][1]["logprobs"].values)
    assert sums[0].shape == sums[1].shape
