"""Kernels over the same rows become one launch, and nothing else about a run changes."""

import attrs
import pytest
import torch
from kernels_of_tests import low_share, plain_share

import dovetail as dt
from dovetail.registry import registry
from dovetail_kernels import fusion
from dovetail_kernels.fusion import FusedReward


def from_rewards(rewards):
    """An estimator, so that these tests need no plugin."""
    return rewards - rewards.mean()


def drawn(model, tokenizer, prompts, samples, sampling, seeds):
    """A generator, likewise: tokens of several lengths, by the seeds."""
    rows = [torch.arange(2 + int(seed) % 5) % 4 + int(seed) % 3 for seed in seeds]
    completions = dt.Ragged.from_rows(rows)
    zeros = completions.with_values(torch.zeros(len(completions.values)))
    return dt.Generated(completions, zeros, ("stop",) * len(rows))


def surrogate(advantages, logprobs):
    """A loss, likewise."""
    return dt.LossTerms(-(logprobs * advantages))


def lengths(completions):
    """A reward in Python."""
    return completions.lengths.float()


@attrs.frozen
class OnPrompts:
    """A kernel over other rows.

    Args:
        bound: The first token that is not low.
        scale: Of the score.
    """

    bound: int = 2
    scale: float = 1.0

    @dt.hookimpl
    @dt.kernel_op(path="rows/low_prompts.cu", baseline=plain_share)
    def score(self, prompts):
        return self.scale * prompts.map(lambda tokens: (tokens < self.bound).float()).mean()


@dt.recipe
def shaped(policy, prompts):
    """A kernel of the recipe's own beside the run's rewards."""
    completions = dt.generate(policy, prompts, samples=4, name="completions")
    logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
    rewards = dt.run_rewards(completions) + 0.5 * low_share(completions, bound=3, name="shaping")
    dt.set_loss(dt.loss("surrogate", dt.advantages("from-rewards", rewards), logprobs))


@pytest.fixture(autouse=True)
def parts():
    """Registered as a script would, until the test ends."""
    own = [
        ("rewards", "low-share", low_share), ("rewards", "lengths", lengths), ("rewards", "on-prompts", OnPrompts),
        ("generators", "drawn", drawn), ("advantages", "from-rewards", from_rewards), ("losses", "surrogate", surrogate),
    ]  # fmt: skip
    for kind, name, target in own:
        registry(kind).register(name, target)
    yield
    for kind, name, _ in own:
        registry(kind)._own.pop(name)


def compiled(mode="auto", rewards=None):
    low = dt.rewards["low-share"]
    if rewards is None:
        second = attrs.evolve(low(bound=1, scale=2.0), weight=0.25, label="lower")
        rewards = [low(bound=2), second, dt.rewards.lengths()]
    policy = dt.Agent.tiny(hidden=16, layers=1, heads=2, generator="drawn", trainable=True)
    return dt.compile(shaped, policy=policy, rewards=rewards, mode=mode)


@pytest.fixture
def launches(monkeypatch):
    """How many kernels each launch had."""
    counted = []

    def counting(calls, *args, **kwargs):
        counted.append(len(calls))
        return launch(calls, *args, **kwargs)

    launch = fusion.launch
    monkeypatch.setattr("dovetail_kernels.fusion.launch", counting)
    monkeypatch.setattr("dovetail_kernels.launch.launch", counting)
    return counted


def test_a_run_launches_once_and_equals_the_eager_run(launches):
    """Two rewards and the recipe's own kernel are one launch; each score is still told, and all metrics are the same."""
    fused, eager = compiled(), compiled("eager")
    metrics = fused.run(prompts=["a", "bc"], seed=3)
    assert launches == [3]
    launches.clear()
    plain = eager.run(prompts=["a", "bc"], seed=3)
    assert launches == [1, 1, 1]
    names = [name for name in metrics if not name.startswith("time/")]
    assert {"reward/low-share", "reward/lower", "reward/lengths"} <= set(names)
    assert {name: metrics[name] for name in names} == pytest.approx({name: plain[name] for name in names}, abs=1e-6)


def test_each_batch_is_launched_anew(launches):
    """Nothing is remembered beyond its rollouts."""
    fused = compiled()
    first, second = (fused.collect(prompts=["a", "bc"], seed=seed) for seed in (3, 4))
    assert launches == [3, 3]
    assert not torch.equal(first.rollouts.rewards["low-share"].values, second.rollouts.rewards["low-share"].values)


def test_explain_tells_what_fused_and_what_did_not():
    """With the reason."""
    low = dt.rewards["low-share"]
    names = [low(), attrs.evolve(low(bound=1), label="lower"), dt.rewards.lengths(), dt.rewards["on-prompts"]()]
    text = compiled(rewards=names).explain()
    assert (
        "fuse: shaping + reward_low-share + reward_lower are one launch over completions of completions, on cpu" in text
    )
    assert "fuse: reward_lengths runs apart: it is host code" in text
    assert (
        "fuse: reward_on-prompts runs apart, on cpu: other kernels read other rows than prompts of completions" in text
    )


def test_without_kernels_the_pass_stays_away():
    """Whether anything else is installed or not."""

    @dt.recipe
    def bare(policy, prompts):
        completions = dt.generate(policy, prompts, samples=4, name="completions")
        logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
        dt.set_loss(dt.loss("surrogate", dt.advantages("from-rewards", dt.run_rewards(completions)), logprobs))

    policy = dt.Agent.tiny(hidden=16, layers=1, heads=2, generator="drawn", trainable=True)
    text = dt.compile(bare, policy=policy, rewards=[dt.rewards.lengths()]).explain()
    assert "reward_lengths" in text
    assert "fuse:" not in text


def test_a_fused_reward_is_still_itself():
    """Its options, its traits and its line in an error."""
    fused = compiled()
    parts = [node.op.part for node in fused.graph if node.op.part and isinstance(node.op.part.instance, FusedReward)]
    assert [part.options() for part in parts] == [{"bound": 2, "scale": 1.0}, {"bound": 1, "scale": 2.0}]
    assert str(parts[0].error("is wrong")).startswith("rewards part 'low-share': is wrong")


def test_a_wrong_token_stops_the_run_by_name():
    """It is no silent number."""
    fused = compiled()
    reward = next(node.op.part.instance for node in fused.graph if node.name == "reward_lower")
    from dovetail.testing import tiny_rollouts

    rollouts = tiny_rollouts()
    rollouts.completions.values[3] = -7
    with pytest.raises(dt.UserError, match="completions holds -7"):
        reward.score(rollouts)


def test_a_kernel_that_does_not_compile_is_told_before_the_run(tmp_path):
    """When the recipe is compiled, by the plugin's file and line."""
    path = tmp_path / "broken.cu"
    path.write_text("RK_FN float broken(Ctx& c, const int* completions, int len) {\n  return absent;\n}\n")

    @dt.kernel_op(path=str(path))
    def broken(completions):
        return completions.mean()

    registry("rewards").register("broken", broken)
    try:
        with pytest.raises(dt.UserError, match="does not compile") as caught:
            compiled(rewards=[dt.rewards.broken()])
    finally:
        registry("rewards")._own.pop("broken")
    assert caught.value.where == (f"{path}:2",)
