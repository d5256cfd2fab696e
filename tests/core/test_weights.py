"""Weights: how several rewards become one total, over the steps of a run and across a resume."""

from __future__ import annotations

import json
import re

import pytest
import torch
from parts_of_tests import lowercase, tiny_policy

import dovetail as dt
from dovetail.errors import ConfigError, DovetailError, PartError
from dovetail_trainer.config.build import build, describe_run
from dovetail_trainer.config.load import load

SHORT = dt.Sampling(max_tokens=4)


def fading(**options):
    return dt.weights.objective(value=1.0, to=0.0, over=2, **options)


def compiled(*rewards, recipe=None, **options):
    settings = dt.TrainSettings(sampling=SHORT)
    recipe = recipe or dt.recipes.grpo(group_size=4, **options)
    return dt.compile(recipe, policy=tiny_policy(), rewards=rewards, settings=settings)


def test_a_scheduled_weight_changes_the_total():
    """The total is made of the weights of the step; the metrics tell them, and the scores as they were given."""
    run = compiled(dt.rewards.length(target=8, weight=fading()), dt.rewards.format(pattern=".*x.*", weight=-1.0))
    for weight in (1.0, 0.5, 0.0, 0.0):
        metrics = run.run(prompts=["a", "b"])
        assert (metrics["weight/length"], metrics["weight/format"]) == (weight, -1.0)
        expected = weight * metrics["reward/length"] - metrics["reward/format"]
        assert metrics["reward"] == pytest.approx(expected, abs=1e-6)
        assert metrics["reward_std/length"] >= 0


def test_an_estimator_is_given_the_scores_that_count():
    """Each by name, normalised, without its weight; the weight apart."""
    seen = {}

    def estimate(rewards, reward_parts, reward_weights):
        seen.update(rewards=rewards, parts=reward_parts, weights=reward_weights)
        return rewards

    @dt.recipe
    def plain(policy, prompts):
        completions = dt.generate(policy, prompts, samples=4)
        credit = dt.advantages("seen", dt.run_rewards(completions, name="rewards"))
        dt.set_loss(dt.loss("clipped", credit, dt.logprobs(policy, prompts, completions, name="policy_logprobs")))

    dt.advantage_estimators.register("seen", estimate)
    try:
        weight = dt.weights.objective(value=0.5, normalize="z-score")
        compiled(dt.rewards["length"](target=300, weight=weight), lowercase, recipe=plain).run(prompts=["a", "b"])
    finally:
        del dt.advantage_estimators._own["seen"]
    length = seen["parts"]["length"]
    assert seen["weights"] == {"length": 0.5, "lowercase": 1.0}
    assert abs(length.mean().item()) < 1e-6
    assert length.std().item() == pytest.approx(1.0, abs=1e-3) or not length.any()
    assert torch.allclose(seen["rewards"], 0.5 * length + seen["parts"]["lowercase"])


def test_a_weight_inside_a_recipe_follows_its_schedule_too():
    """dt.reward takes what the slot takes."""

    @dt.algorithm(using=dt.recipes.grpo)
    def two(graph):
        graph.rewards.replace_with(graph.rewards + dt.reward("length", weight=fading(), target=8, name="brief"))

    run = compiled(lowercase, recipe=two(group_size=4))
    made = []
    for _ in range(3):
        collected = run.collect(prompts=["a", "b"])
        brief, raw = collected.outputs("brief")["out"], collected.rollouts.rewards["length"]
        made.append(torch.allclose(brief.values, raw.values * (1.0, 0.5, 0.0)[len(made)]))
        run.learn(collected)
    assert made == [True] * 3


def test_both_ways_to_combine_normalised_rewards_run():
    """sum_then_normalize on the weighted total, normalize_then_sum on each; they differ."""
    results = []
    for combine in ("sum_then_normalize", "normalize_then_sum"):
        weight = dt.weights.objective(value=3.0, normalize="running", clip=[-1, 1])
        run = compiled(dt.rewards.length(target=3, weight=weight), lowercase, combine=combine)
        collected = run.collect(prompts=["a", "b", "c"], seed=5)
        results.append(collected.outputs("advantages")["out"].values)
        run.learn(collected)
    assert not torch.allclose(*results)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda scores: (scores[:1], 1.0), r"gave \(1,\) scores"),
        (lambda scores: (scores / 0, 1.0), "finite"),
        (lambda scores: (scores, float("nan")), "the weight nan"),
        (lambda scores: scores.nothing, "AttributeError"),
    ],
)
def test_a_weight_that_breaks_its_contract_stops_the_run(returned, message):
    """The error names the part."""

    def weigh(scores, step):
        return returned(scores)

    with pytest.raises(PartError, match=message) as error:
        compiled(dt.rewards.length(weight=weigh), lowercase).run(prompts=["a", "b"])
    assert "weights part 'weigh'" in str(error.value)


def test_what_is_no_weight_is_refused_at_once():
    """A part of another kind, or an object without the hook."""
    with pytest.raises(DovetailError, match="a part of kind weights was expected, got rewards/length"):
        dt.rewards.length(weight=dt.rewards.length())
    with pytest.raises(PartError, match="does not implement the hook 'weigh'"):
        dt.rewards.length(weight=object())


YAML = """
algorithm: {use: grpo, group_size: 4, combine: normalize_then_sum}
policy: {tiny: {hidden: 16, layers: 1, heads: 2}}
environment: {use: math, digits: 1, weight: {use: objective, value: 2}}
rewards:
  - {use: length, target: 3, weight: {use: objective, value: 0, to: 0.5, over: 4, schedule: cosine, normalize: running}}
extensions: [{use: pareto, window: 2}]
sampling: {max_tokens: 4}
batch_size: 2
checkpoint_every: 1
steps: 5
"""


def written(folder, text=YAML):
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(text)
    return load(folder / "run.yaml")


def metrics(run):
    return [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_keeps_its_statistics_and_its_table(tmp_path):
    """From a file: schedule, running statistics and Pareto table go on as if nothing had happened."""
    config = written(tmp_path)
    build(config, run_dir=tmp_path / "whole").fit(5)
    build(config, run_dir=tmp_path / "cut").fit(3)
    dt.Trainer.resume(tmp_path / "cut").fit(5)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert [m["weight/math"] for m in metrics(tmp_path / "whole")] == [2.0] * 5
    assert [m["weight/length"] for m in metrics(tmp_path / "whole")][::4] == [0.0, 0.5]
    table = (tmp_path / "whole" / "pareto.md").read_text()
    assert table == (tmp_path / "cut" / "pareto.md").read_text()
    assert re.search(r"Pareto optimal: [123] of 3 stretches", table)


def test_a_trainer_describes_its_weights_in_the_words_that_build_them(tmp_path):
    """describe -> read -> build -> describe is a fixed point."""
    trainer = build(written(tmp_path), run_dir=tmp_path / "a")
    words = json.loads(json.dumps(describe_run(trainer)))
    assert words["rewards"][0]["weight"]["use"] == "objective"
    again = build(written(tmp_path, json.dumps(words)), run_dir=tmp_path / "b")
    assert describe_run(again) == describe_run(trainer)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            "{use: objective, vlaue: 1}",
            "unknown option 'vlaue', did you mean 'value'?  at rewards[0].weight (run.yaml:",
        ),
        ("{use: objectve}", "did you mean 'objective'?  at rewards[0].weight"),
        ("{value: 1}", "a part is written {use: <name>, …options} or as its name  at rewards[0].weight"),
        ("[1]", "expected float, got list [1]  at rewards[0].weight"),
    ],
)
def test_a_mistake_in_a_weight_has_its_path_and_line(tmp_path, weight, message):
    """As every other mistake in a file."""
    with pytest.raises(ConfigError) as error:
        written(tmp_path, re.sub(r"(?<=target: 3, weight: ).*(?=}\n)", weight, YAML))
    assert message in str(error.value)
