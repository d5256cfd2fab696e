"""The conformance kit finds what it is for: each broken part fails the check that names its fault."""

from __future__ import annotations

import attrs
import pytest
import torch

import dovetail as dt
from dovetail.registry import registry
from dovetail.testing import part_checks, tiny_agent


@pytest.fixture
def register(monkeypatch):
    """register(kind, name, target) until the test ends."""
    return lambda kind, name, target: monkeypatch.setitem(registry(kind)._own, name, target)


def failing(kind, name, **facts) -> set[str]:
    """Claims that a part does not keep."""
    broken = set()
    for check in part_checks(kind, name, **facts):
        try:
            check()
        except Exception:  # a broken part may fail in any way; the claim is what counts
            broken.add(str(check))
    return broken


def test_rewards_that_look_at_their_neighbours_or_leave_their_bounds_fail(register):
    """The claims name the fault."""

    def ranked(completions):
        return completions.lengths.float() / completions.lengths.max().clamp(min=1)

    def undocumented(texts, *, factor: float = 1.0):
        return [factor for _ in texts]

    def spoils(rollouts):
        rollouts.tokens.values.zero_()
        return [0.0] * len(rollouts)

    for function in (ranked, undocumented, spoils):
        register("rewards", function.__name__, function)
    assert failing("rewards", "ranked", bounds=(0, 0.5)) == {
        "a score does not depend on the rows beside it",
        "scores lie in [0, 0.5]",
    }
    assert failing("rewards", "undocumented") == {"every option is documented"}
    assert failing("rewards", "spoils") == {"it leaves its input as it is"}


def test_losses_with_a_denominator_of_their_own_fail(register):
    """A mean inside a loss depends on the cut; a metric with a gradient leaks memory."""

    def averaged(logprobs):
        return dt.LossTerms(logprobs / len(logprobs.values), metrics={"lp": logprobs.detach()})

    def leaky(logprobs):
        return dt.LossTerms(-logprobs, metrics={"lp": logprobs})

    register("losses", "averaged", averaged)
    register("losses", "leaky", leaky)
    assert "loss and gradient do not depend on how the batch is cut" in failing("losses", "averaged")
    assert failing("losses", "leaky") == {"metrics carry no gradient"}


def test_estimators_that_trip_over_no_spread_or_order_fail(register):
    """Dividing by a standard deviation of 0, and depending on the place of a row."""

    def divided(rewards):
        return (rewards - rewards.mean()) / rewards.std()

    def placed(rewards):
        return rewards * torch.arange(len(rewards))

    register("advantages", "divided", divided)
    register("advantages", "placed", placed)
    assert "equal rewards and groups of one stay finite" in failing("advantages", "divided")
    assert "the order of the rows does not matter" in failing("advantages", "placed")


def test_environments_that_leak_or_never_end_fail(register):
    """The answer in the info, a step after the end, one instance for all."""

    class Leaky(dt.SyncEnvironment):
        def on_reset(self, seed, task):
            self.task = task
            return dt.StepResult(messages=task.messages, info={"expected": task.answer})

        def on_step(self, action):
            return dt.StepResult(reward=float(action.content == self.task.answer), terminated=True)

    @attrs.frozen
    class LeakyFactory:
        shared: bool = False

        @dt.hookimpl
        def tasks(self, split):
            return [dt.Task(f"{split}{i}", (dt.Message("user", f"{split} {i}"),), answer=str(i)) for i in range(4)]

        @dt.hookimpl
        async def make(self):
            return Leaky()

    register("environments", "leaky", LeakyFactory)
    assert failing("environments", "leaky", gold=lambda task: task.answer) == {
        "every option is documented",
        "the answer is nowhere before the end",
    }


def test_generators_whose_logprobs_are_not_the_models_fail(register):
    """Any distribution but the model's own is found out."""

    class Wrong:
        @dt.hookimpl
        def generate(self, prompts, samples, sampling):
            rows = dt.Ragged.from_rows([[5, 6]] * (len(prompts) * samples))
            return dt.Generated(rows, rows.map(lambda t: -t.float()), ("length",) * len(rows))

    register("generators", "wrong", Wrong)
    broken = failing("generators", "wrong")
    assert "log-probs are the model's own" in broken
    assert "stop tokens end a completion and limits hold" in broken


def test_waivers_need_a_claim_that_fails(register):
    """A waiver of a kept promise is stale; one of an unknown claim is refused."""
    register("rewards", "shortness", lambda completions: -completions.lengths / 1000)
    claim = "scores lie in [-0.1, 0]"
    checks = part_checks("rewards", "shortness", bounds=(-0.1, 0), waive={claim: "long texts are rare here"})
    by_name = {str(check): check for check in checks}
    by_name[f"waived: {claim}"]()
    (stale,) = [
        check for check in part_checks("rewards", "shortness", waive={"it scores every sequence": "no reason"})
        if str(check).startswith("waived")
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="is stale"):
        stale()
    with pytest.raises(ValueError, match="no check claims 'it sings'"):
        part_checks("rewards", "shortness", waive={"it sings": "x"})


def test_the_tiny_agent_is_an_agent():
    """Small, local, with a character tokenizer."""
    agent = tiny_agent()
    assert agent.decode(agent.encode_text("1+1=2")) == "1+1=2"
    assert sum(p.numel() for p in agent.model.parameters()) < 20_000
