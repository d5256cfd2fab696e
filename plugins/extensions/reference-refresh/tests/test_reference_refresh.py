"""What the extension promises, with a reference and a policy but without a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dovetail import UserError, extensions
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_agent
from dovetail_reference_refresh import ReferenceRefresh


@pytest.mark.parametrize("check", part_checks("extensions", "reference-refresh"), ids=str)
def test_conformance(check):
    """It keeps what every part promises."""
    check()


def a_run(policy, reference, *, is_read=True):
    """The part of a run that the extension looks at."""
    graph = SimpleNamespace(readers=lambda name: [name] if is_read else [])
    agents = {"policy": policy, "ref_policy": reference}
    return SimpleNamespace(agents=agents, compiled=SimpleNamespace(graph=graph))


def weight(agent):
    return agent.model.lm_head.weight.detach().clone()


@pytest.mark.parametrize("mix", [1.0, 0.25])
def test_the_mixture_is_its_formula(mix):
    """Only at every second step; the evaluation before the first step is none."""
    policy, reference = tiny_agent(seed=1, trainable=True), tiny_agent(seed=2)
    ours, before = weight(policy), weight(reference)
    part, run = ReferenceRefresh(every=2, mix=mix), a_run(policy, reference)
    part.on_run_start(run)
    for step in (0, 1):
        part.on_step_end(run, step, {})
        assert torch.equal(weight(reference), before)
    part.on_step_end(run, 2, {})
    torch.testing.assert_close(weight(reference), (1 - mix) * before + mix * ours)
    assert torch.equal(weight(policy), ours)


def test_a_resume_gives_the_reference_its_weights_back():
    """Those of the last refresh, not those that it is loaded with."""
    policy, reference = tiny_agent(seed=1), tiny_agent(seed=2)
    first = ReferenceRefresh(every=1, mix=0.5)
    assert first.state_dict() == {"weights": None}
    first.on_step_end(a_run(policy, reference), 1, {})
    second, loaded = ReferenceRefresh(every=1, mix=0.5), tiny_agent(seed=2)
    second.load_state_dict(first.state_dict())
    second.on_run_start(a_run(policy, loaded))
    assert torch.equal(weight(loaded), weight(reference))


def test_a_run_without_a_reference_is_refused():
    """So is a reference that is another model, or the policy itself with its adapters off."""
    policy = tiny_agent()
    with pytest.raises(UserError, match="reads no reference 'ref_policy'"):
        ReferenceRefresh().on_run_start(a_run(policy, policy, is_read=False))
    with pytest.raises(UserError, match="has no weights to refresh"):
        ReferenceRefresh().on_run_start(a_run(policy, policy))
    with pytest.raises(UserError, match="are different models"):
        ReferenceRefresh().on_run_start(a_run(policy, tiny_agent(hidden=32)))


@pytest.mark.parametrize(
    ("options", "told"), [({"every": 0}, "'every' must be >= 1"), ({"mix": 0.0}, "'mix' must be > 0")]
)
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the option."""
    with pytest.raises(OptionError, match=told):
        extensions["reference-refresh"](**options)
