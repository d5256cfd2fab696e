"""Programs as rewards, through the trainer."""

from __future__ import annotations

import json

import dovetail as dt


def test_a_policy_trains_on_programs(tmp_path):
    """Rewards come from the sandbox, one for each sample, and none is invalid."""
    trainer = dt.Trainer(
        dt.recipes["grpo"](group_size=4),
        policy=dt.Agent.tiny(hidden=16, layers=1, heads=2, context=96),
        environment=dt.environments.code(levels=["constant"], size=200, reward="shaped"),
        sampling=dt.Sampling(max_tokens=4),
        run_dir=tmp_path / "run",
        batch_size=2,
    )
    trainer.fit(2)
    steps = [json.loads(line)["metrics"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2
    for metrics in steps:
        assert metrics["invalid/code"] == 0
        assert 0 <= metrics["reward/code"] <= 1
