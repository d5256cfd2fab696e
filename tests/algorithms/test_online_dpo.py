"""A policy that samples its own pairs comes to what the reward prefers."""

import pytest

import dovetail as dt
from dovetail.testing import tiny_agent


@dt.rewards.register("many-a")
def many_a(texts):
    return [float(text.count("a")) for text in texts]


@pytest.mark.parametrize("samples", [2, 4])
def test_online_dpo_learns_what_the_reward_prefers(samples):
    """The policy's own answers, of which the one with more of a letter wins."""
    optimizer = dt.OptimizerSettings(lr=1e-2)
    policy = tiny_agent(hidden=32, characters="abcdefxyzs :", optimizer=optimizer, trainable=True)
    compiled = dt.compile(
        dt.recipes["online-dpo"](samples=samples, beta=0.5), policy=policy, ref_policy=policy.frozen(),
        rewards=["many-a"], sampling=dt.Sampling(max_tokens=6),
    )  # fmt: skip
    found = [compiled.run(prompts=["say x:", "say y:", "say z:"] * 4) for _ in range(25)]
    assert found[-1]["reward"] > found[0]["reward"] + 1
    assert 0 < found[0]["dpo/pairs"] <= 1
