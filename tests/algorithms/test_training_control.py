"""Extensions that steer a run: they move what they say, and a resumed run goes on as if it had never stopped."""

from __future__ import annotations

import json
import math

import pytest
import torch
from parts_of_tests import tiny_policy

import dovetail as dt

FALLING = dt.OptimizerSettings(
    lr=1e-2, warmup_steps=2, schedule="torch.optim.lr_scheduler.CosineAnnealingLR", schedule_options={"T_max": 10}
)
STEERED = {
    "adaptive": {"node": "loss", "option": "entropy_coef", "metric": "entropy", "target": 1.0},
    "adaptive-kl": {"target": 0.01, "gain": 0.5},
    "adaptive-clip": {"target": 1e-4, "gain": 0.5},
    "adaptive-temperature": {"target": 1.0, "gain": 0.5},
    "scheduled": {"node": "loss", "option": "entropy_coef", "start": 0.1, "end": 0.0, "steps": 5, "shape": "cosine"},
    "reference-refresh": {"every": 2, "mix": 0.5},
    "curriculum": {"steps": 5, "column": "length", "start": 0.05},
    "learnability": {"reward": "length"},
}


def trainer(folder, *extensions, recipe=dt.recipes.ppo, policy=None, **options):
    chosen = {"epochs": 2, "entropy_coef": 0.01} if recipe is dt.recipes.ppo else {}
    return dt.Trainer(
        recipe(**chosen), run_dir=folder, sampling=dt.Sampling(max_tokens=4), batch_size=4, checkpoint_every=1,
        environment=dt.environments.math(levels=("addition", "word"), digits=1, final_answer="whole", symbolic=False),
        rewards=[dt.rewards.length(target=3)], extensions=extensions, policy=policy or tiny_policy(head="value"), **options,
    )  # fmt: skip


def metrics(folder):
    return [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def unsteered(tmp_path_factory):
    """The metrics of a run that nothing steers."""
    folder = tmp_path_factory.mktemp("unsteered")
    trainer(folder).fit(6)
    return metrics(folder)


@pytest.mark.parametrize("name", STEERED)
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(tmp_path, name, unsteered):
    """Six steps in one go, or three and three: every metric is the same, and another than without the extension."""
    part = dt.extensions[name]
    trainer(tmp_path / "whole", part(**STEERED[name])).fit(6)
    trainer(tmp_path / "cut", part(**STEERED[name])).fit(3)
    again = dt.Trainer.resume(tmp_path / "cut")
    assert again.run.step == 3
    again.fit(6)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert metrics(tmp_path / "whole")[-1] != unsteered[-1]


def test_a_learning_rate_schedule_goes_on(tmp_path):
    """Warm-up and a torch schedule are part of the checkpoint: no extension is needed."""
    trainer(tmp_path / "whole", policy=tiny_policy(head="value", optimizer=FALLING)).fit(5)
    trainer(tmp_path / "cut", policy=tiny_policy(head="value", optimizer=FALLING)).fit(2)
    dt.Trainer.resume(tmp_path / "cut").fit(5)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    rates = [line["lr"] for line in metrics(tmp_path / "whole")]
    falling = [1e-2 * (1 + math.cos(math.pi * step / 10)) / 2 for step in (1, 3, 5, 7)]
    assert rates == pytest.approx([1e-2 * 2 / 3, *falling])  # two optimizer steps each, of which the last is told


def test_a_price_follows_the_distance(tmp_path):
    """Above the target it rises by at most 1 + 0.2 gain a step; the metric shows the price of each step."""
    trainer(tmp_path, dt.extensions["adaptive-kl"](target=1e-6, gain=0.5)).fit(4)
    lines = metrics(tmp_path)
    prices = [line["gae/kl_coef"] for line in lines]
    assert prices[0] == 0.05
    for line, before, after in zip(lines, prices, prices[1:], strict=False):
        error = min(max(line["gae/kl"] / 1e-6 - 1, -0.2), 0.2)
        assert after == pytest.approx(before * (1 + 0.5 * error))


def test_the_temperature_travels_with_the_tokens(tmp_path):
    """The trainer scores under the temperature that was drawn with, so the KL to the sampler stays 0 on policy."""
    run = trainer(tmp_path, dt.extensions["adaptive-temperature"](target=50.0), recipe=dt.recipes.grpo)
    run.fit(8)
    assert run.run.option("completions", "temperature") == pytest.approx((1 + 0.1 * 0.2) ** 8)
    assert all(abs(line["kl_to_sampler"]) < 1e-5 for line in metrics(tmp_path))


@pytest.mark.parametrize(("mix", "every"), [(1.0, 2), (0.25, 1)])
def test_a_reference_becomes_what_was_asked(tmp_path, mix, every):
    """A replacement every second step, or a moving average."""
    run = trainer(tmp_path, dt.extensions["reference-refresh"](every=every, mix=mix))
    expected = dict(run.agents["ref_policy"].model.named_parameters())["lm_head.weight"].clone()

    class Follows:
        @dt.hookimpl
        def on_step_end(self, run, step):
            ours = run.agents["policy"].model.lm_head.weight.detach()
            if step % every == 0:
                expected.lerp_(ours, mix)

    run = trainer(tmp_path / "again", Follows(), dt.extensions["reference-refresh"](every=every, mix=mix))
    run.fit(3)
    torch.testing.assert_close(run.agents["ref_policy"].model.lm_head.weight, expected)


def test_easy_tasks_come_first(tmp_path):
    """No prompt of the first batches is longer than the easiest share allows; in the end all are drawn."""
    seen = []

    class Watches:
        @dt.hookimpl
        def on_rollouts(self, rollouts):
            seen.append([len(task.messages[0].content) for task in rollouts.tasks])

    part = dt.extensions.curriculum(start=0.05, steps=3)
    run = trainer(tmp_path, part, Watches())
    run.fit(5)
    lengths = sorted(len(task.messages[0].content) for task in run.run.batches.items)
    for step, batch in enumerate(seen[:3]):
        assert max(batch) <= lengths[math.ceil(part.instance.share(step) * len(lengths)) - 1]
    assert max(map(max, seen[3:])) > max(seen[0])


@pytest.mark.parametrize(
    ("extension", "options", "told"),
    [
        ("adaptive-kl", {"node": "advantags"}, "did you mean 'advantages'"),
        ("adaptive-kl", {"option": "kl_cof"}, "did you mean 'kl_coef'"),
        ("adaptive", {"node": "loss", "option": "dual_clip", "metric": "entropy", "target": 1.0}, "dual_clip is None"),
        ("scheduled", {"node": "loss", "option": "clip", "start": 0.2, "end": -1.0, "steps": 1}, "'clip' must be > 0"),
        ("scheduled", {"node": "loss", "option": "correction", "start": 0.0, "end": 1.0, "steps": 5}, "correction"),
        ("reference-refresh", {"agent": "teacher"}, "this run reads no reference 'teacher'"),
        ("curriculum", {"column": "hardness"}, "has None in its column 'hardness', and a difficulty is a number"),
    ],
)
def test_what_cannot_be_steered_is_told(tmp_path, extension, options, told):
    """Unknown nodes, options and columns; what is off; values that do not fit."""
    with pytest.raises((dt.DovetailError, ValueError), match=told):
        trainer(tmp_path, dt.extensions[extension](**options)).fit(2)


def test_what_was_folded_away_cannot_be_switched_on(tmp_path):
    """The reference is not computed in a run that began without a price."""
    run = trainer(tmp_path, recipe=lambda: dt.recipes.ppo(kl_coef=0.0))
    with pytest.raises(dt.RecipeError, match="would now need logprobs, ref_logprobs, which this run does not compute"):
        run.run.adjust("advantages", kl_coef=0.1)


def test_a_stream_cannot_be_chosen_from(tmp_path, register):
    """Its end is not known; the error says so before the first step."""

    class Endless:
        @dt.hookimpl
        def tasks(self, split):
            return iter([dt.Task.of("1+1=", id="0")])

        @dt.hookimpl
        async def make(self):
            raise NotImplementedError

    register("environments", "endless", Endless)
    run = dt.Trainer(
        dt.recipes.grpo(group_size=2), policy=tiny_policy(), environment="endless", run_dir=tmp_path,
        extensions=[dt.extensions.learnability()],
    )  # fmt: skip
    with pytest.raises(dt.DovetailError, match="comes as a stream, and cannot be chosen from"):
        run.fit(1)
