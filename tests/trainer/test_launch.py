"""``dovetail train --processes 2``: the short way to several processes of one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dovetail_trainer.cli.main import main

CONFIG = """
algorithm: {use: grpo, group_size: 2}
policy: {tiny: {hidden: 16, layers: 1, heads: 2, context: 32}, optimizer: {lr: 1.0e-2}}
environment: {use: math, digits: 1, final_answer: whole, symbolic: false}
steps: 2
batch_size: 4
sampling: {max_tokens: 4}
threads: 1
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"{CONFIG}run_dir: {tmp_path / 'run'}\n")
    return path


def dovetail(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    command = [sys.executable, "-m", "dovetail_trainer", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


@pytest.mark.slow
def test_a_run_is_started_continued_and_speaks_once(config, tmp_path):
    """The end is told by one process, and the folder is that of one run."""
    done = dovetail("train", config, "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 steps done") == 1
    more = dovetail("train", "--resume", tmp_path / "run", "--steps", 3, "--processes", 2)
    assert more.returncode == 0, more.stderr
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").open()] == [1, 2, 3]


@pytest.mark.slow
def test_an_error_ends_all_and_names_the_process(config, tmp_path):
    """The exit code is not 0, and what was wrong is on the screen."""
    (tmp_path / "mine.py").write_text(
        "import os, signal\n\ndef deadly(texts):\n"
        "    if os.environ['RANK'] == '1':\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [0.0] * len(texts)\n"
    )
    config.write_text(config.read_text() + "rewards: ['mine.py:deadly']\n")
    ended = dovetail("train", config, "--processes", 2)
    assert ended.returncode == 1
    assert "process 1 of 2 was killed by SIGKILL, and the others with it" in ended.stderr
    assert "--resume" in ended.stderr


def test_what_cannot_be_started_is_refused(config, capsys, monkeypatch):
    """Too few processes; processes of processes; other commands; a mistake in the file, told once."""
    assert main(["train", str(config), "--processes", "0"]) == 2
    assert main(["train", str(config), "--processes", "2", "--set", "steps=0"]) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(config), "--processes", "2"]) == 2
    assert main(["plugins"]) == 2
    errors = capsys.readouterr().err
    assert "--processes must be at least 1, got 0" in errors
    assert errors.count("steps must be at least 1") == 1
    assert "torchrun has done so" in errors
    assert "`dovetail plugins` runs in one process" in errors


def test_a_broken_environment_is_told(config, capsys, monkeypatch):
    """What torchrun would have said is missing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(config)]) == 2
    assert "the variable RANK must be a number" in capsys.readouterr().err
