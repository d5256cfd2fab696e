"""Dynamic sampling: a step learns from groups that differ, and a resumed run draws the same ones."""

from __future__ import annotations

import json

import attrs
import pytest
import torch
from parts_of_tests import tiny_policy

import dovetail as dt
from dovetail.errors import RecipeError
from dovetail.testing import tiny_rollouts
from dovetail_trainer import refill
from dovetail_trainer.joining import joined

PROMPTS = [f"{n}+1=" for n in range(40)]


def sometimes(texts, groups, tasks):
    """Every third task has samples that differ."""
    hopeful = [int(task.id) % 3 == 0 for task in tasks]
    return [float(hope and row % 2) for row, hope in enumerate(hopeful)]


def trainer(tmp_path, name, reward=sometimes, recipe="dapo", max_invalid=0.1, **options):
    """A run of four prompts in groups of two."""
    return dt.Trainer(
        dt.recipes[recipe](group_size=2, **options), policy=tiny_policy(), prompts=PROMPTS, rewards=[reward],
        batch_size=4, sampling=dt.Sampling(max_tokens=3), checkpoint_every=1, run_dir=tmp_path / name,
        max_invalid=max_invalid,
    )  # fmt: skip


def rollouts(run, step):
    """The samples of a step that it learnt from."""
    lines = (run.run.directory / f"rollouts/step-{step:06d}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_step_is_filled_with_groups_that_differ(tmp_path):
    """Four groups, each with an advantage; the others are drawn, counted and left out."""
    run = trainer(tmp_path, "run")
    metrics = run.step()
    samples = rollouts(run, 1)
    assert len(samples) == 8
    assert all(int(sample["task"]) % 3 == 0 and sample["advantage"] != 0 for sample in samples)
    assert len({sample["group"] for sample in samples}) == 4
    assert metrics["draws"] > 1
    assert 0.5 < metrics["groups_without_signal"] < 0.9
    assert metrics["reward"] < 0.35, "the mean is over all that was drawn"


def test_what_is_learnt_is_what_one_draw_of_these_groups_gives(tmp_path):
    """The same prompts and samples without a refill: the same loss and gradient."""
    filled = trainer(tmp_path, "filled")
    drawn, _ = refill.collect(filled.compiled, filled._data, 0)
    metrics = filled.compiled.learn(drawn, update=False)
    found = {name: p.grad.clone() for name, p in filled.policy.named_parameters().items()}
    assert metrics["loss"] == pytest.approx(-drawn.values["advantages"]["out"].values.mean().item(), abs=1e-6)

    replayed = trainer(tmp_path, "replayed", recipe="grpo", clip_high=0.28)
    once = replayed.compiled.collect(prompts=PROMPTS[:4])
    once.rollouts, once.valid = drawn.rollouts, drawn.valid
    once.values["completions"] = {"out": drawn.rollouts}
    rewards = torch.tensor([float(row % 2) for row in range(8)])
    credit = dt.advantage_estimators.group().instance.estimate(rewards, drawn.rollouts.groups, None, None)
    once.values["advantages"] = {"out": drawn.rollouts.sampled.spread(credit)}
    replayed.compiled.learn(once, update=False)
    for name, parameter in replayed.policy.named_parameters().items():
        torch.testing.assert_close(parameter.grad, found[name])


def test_draws_end_at_their_number(tmp_path):
    """A smaller batch is learnt from, and if nothing teaches anything the first stays."""
    metrics = trainer(tmp_path, "few", max_draws=2).step()
    assert metrics["draws"] == 2
    nothing = trainer(tmp_path, "nothing", reward=lambda texts: [0.0] * len(texts), max_draws=3)
    metrics = nothing.step()
    assert metrics["draws"] == 3
    assert metrics["groups_without_signal"] == 1
    assert metrics["loss"] == 0
    assert len(rollouts(nothing, 1)) == 8


def test_one_draw_is_no_refill(tmp_path):
    """max_draws=1 is grpo's step."""
    plain, once = trainer(tmp_path, "plain", recipe="grpo", clip_high=0.28), trainer(tmp_path, "once", max_draws=1)
    left, right = plain.step(), once.step()
    assert left["loss"] == right["loss"]
    assert "draws" not in right


def test_a_resumed_run_draws_what_an_unbroken_one_draws(tmp_path):
    """Bit by bit: a step owns its batches, used or not."""
    whole = trainer(tmp_path, "whole")
    whole.fit(4)
    broken = trainer(tmp_path, "broken")
    for _ in range(2):
        broken.step()
    broken.checkpoint()
    resumed = trainer(tmp_path, "broken")
    resumed.load_checkpoint()
    resumed.run.rewind(2)
    for step in (3, 4):
        resumed.step()
        assert [s["completion"] for s in rollouts(resumed, step)] == [s["completion"] for s in rollouts(whole, step)]
    for name, parameter in whole.policy.named_parameters().items():
        assert torch.equal(parameter, resumed.policy.named_parameters()[name]), name


def test_a_failed_reward_of_a_dropped_group_is_written_all_the_same(tmp_path):
    """Left out, counted, never lost."""

    def patchy(texts, tasks):
        return [dt.Invalid("odd") if int(t.id) % 20 == 1 else float(row % 2) for row, t in enumerate(tasks)]

    run = trainer(tmp_path, "patchy", reward=patchy, max_invalid=1.0)
    seen = 0
    for _ in range(5):
        metrics = run.step()
        seen += metrics["invalid"] > 0
    assert seen == len(list((run.run.directory / "invalid").glob("*.jsonl")))


def test_a_recipe_that_samples_twice_cannot_draw_again(tmp_path):
    """Its rows would not fit: told before anything runs."""

    @dt.algorithm(using=dt.recipes.dapo)
    def twice(graph):
        dt.reward("length", rollout=dt.generate(graph.policy, graph.prompts, samples=2, name="others"))

    with pytest.raises(RecipeError, match="draws is for a recipe that samples once"):
        dt.Trainer(
            twice, policy=tiny_policy(), prompts=PROMPTS, rewards=[sometimes], run_dir=tmp_path / "twice", batch_size=4
        )


def test_draws_of_many_turns_are_joined_with_their_step_rewards():
    """What the environment gave for each turn, and what was said, stay with their rows."""
    rollouts = tiny_rollouts(lengths=(2, 3), group_size=1)
    steps = dt.Ragged.from_rows([[0], [0, 1]])
    episodes = attrs.evolve(
        rollouts, steps=steps, step_rewards=steps.with_values(torch.tensor([1.0, 2.0, 3.0])),
        conversations=((dt.Message("user", "a"),), (dt.Message("user", "b"),)),
    )  # fmt: skip
    both = joined([episodes, episodes], [torch.tensor([True, True]), torch.tensor([False, True])])
    assert both.step_rewards.tolist() == [[1.0], [2.0, 3.0], [2.0, 3.0]]
    assert [said[0].content for said in both.conversations] == ["a", "b", "b"]
