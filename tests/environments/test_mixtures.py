"""A run on a mixture of environments."""

from __future__ import annotations

import json

import dovetail as dt


def test_the_metrics_of_a_run_tell_of_each_environment(tmp_path):
    """Their shares of the batch, and a mean of rewards that is the mean of all when it is weighted by them."""
    sums = {"use": "math", "digits": 1, "final_answer": "last_number", "symbolic": False}
    mixture = dt.environments.multi(environments=[{**sums, "weight": 3}, {**sums, "name": "more", "levels": ["word"]}])
    trainer = dt.Trainer(
        dt.recipes["grpo"](group_size=2), policy=dt.Agent.tiny(hidden=16, layers=1, heads=2, trainable=True),
        environment=mixture, rewards=[dt.rewards.length(target=4)], run_dir=tmp_path / "run", batch_size=4,
        sampling=dt.Sampling(max_tokens=6), evaluate_every=2, evaluate_tasks=4,
    )  # fmt: skip
    trainer.fit(2)
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    steps = [line["metrics"] for line in lines if line["step"]]  # the first line is an evaluation
    assert len(steps) == 2
    for metrics in steps:
        assert (metrics["multi/math/share"], metrics["multi/more/share"]) == (0.75, 0.25)
        mean = 0.75 * metrics["multi/math/length"] + 0.25 * metrics["multi/more/length"]
        assert abs(mean - metrics["reward/length"]) < 1e-6
        assert metrics["multi/math/invalid"] == metrics["multi/more/invalid"] == 0
    resumed = dt.Trainer.resume(tmp_path / "run")
    resumed.fit(3)
    assert resumed.run.step == 3
