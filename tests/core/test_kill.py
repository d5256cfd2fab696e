"""kill -9 loses nothing: the resumed run is bit-identical to one that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
algorithm: {use: grpo, group_size: 2}
policy: {tiny: {hidden: 16, layers: 1, heads: 2, context: 32}, optimizer: {lr: 1.0e-2}}
environment: {use: math, digits: 1, final_answer: whole, symbolic: false}
rewards: [{use: length, target: 3, weight: 0.1}]
loggers: [jsonl]
steps: 30
batch_size: 4
sampling: {max_tokens: 4}
checkpoint_every: 3
threads: 1
"""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from dovetail_trainer.cli.main import run; run()", "train", *arguments]
    # Tracing would only make the moments of the kills fewer.
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def metrics(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{"step": line["step"], **line["metrics"]} for line in lines]


def wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    """Until the run has written that step, by reading its metrics file."""
    path = run / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= step:
            return
        os.sched_yield()


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path):
    """20 kills between any two steps of a 30-step run; then metrics, log and weights are those of an uninterrupted one."""
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start(str(config), "--set", f"run_dir={whole}"))

    moments = sorted(random.Random(0).choices(range(30), k=int(os.environ.get("DOVETAIL_KILLS", "20"))))
    process = start(str(config), "--set", f"run_dir={cut}")
    for moment in moments:
        wait_for_step(process, cut, moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumable = (cut / "config.json").exists()
        process = start("--resume", str(cut)) if resumable else start(str(config), "--set", f"run_dir={cut}")
    finish(process)

    assert metrics(cut) == metrics(whole)
    logged = [json.loads(line)["step"] for line in (cut / "log.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 31))
    weights = [(run / "final" / "model.safetensors").read_bytes() for run in (whole, cut)]
    assert weights[0] == weights[1]
