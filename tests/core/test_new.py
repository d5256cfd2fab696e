"""What dovetail new writes trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dovetail_trainer.cli.main import main


def run(command: list[str], site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


def dovetail(*arguments: str) -> list[str]:
    return ["-c", "from dovetail_trainer.cli.main import run; run()", *arguments]


def test_a_new_reward_trains_from_yaml_and_from_python(tmp_path):
    """With the core, grpo, math and a generator."""
    assert main(["new", "reward", "new-reward", "--path", str(tmp_path)]) == 0
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    finished = run([*install, str(tmp_path / "dovetail-new-reward")], site, tmp_path)
    assert finished.returncode == 0, finished.stderr
    (tmp_path / "run.yaml").write_text(
        "algorithm: {use: grpo, group_size: 2}\npolicy: {tiny: {hidden: 16, layers: 1, heads: 2}}\n"
        "environment: {use: math, digits: 1}\nrewards: [{use: new-reward, target: 4, weight: 0.5}]\n"
        "steps: 2\nbatch_size: 2\nsampling: {max_tokens: 4}\nrun_dir: run\n"
    )
    finished = run(dovetail("train", "run.yaml"), site, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert '"reward/new-reward"' in (tmp_path / "run/metrics.jsonl").read_text()
    script = (
        "import dovetail as dt\n"
        "dt.Trainer('grpo', policy=dt.Agent.tiny(hidden=16, layers=1, heads=2), environment=dt.environments.math(),"
        "rewards=[dt.rewards.new_reward(target=4)], batch_size=2, sampling=dt.Sampling(max_tokens=3)).fit(1)"
    )
    finished = run(["-c", script], site, tmp_path)
    assert finished.returncode == 0, finished.stderr
