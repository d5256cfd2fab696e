"""The script for a GPU runs on small shapes on the CPU, all of it, and tells what failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(out, *arguments, path=""):
    """The exit status, what was printed, and the one file that was written."""
    paths = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    environment.pop("COVERAGE_PROCESS_CONFIG", None)  # tracing a training run is slow
    command = [sys.executable, str(ROOT / "benchmarks/gpu_day.py"), "--out", str(out), "--rounds", "1", *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=out)
    (file,) = out.glob("gpu-day-*.json")
    return finished.returncode, finished.stdout, json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_section_runs_on_small_shapes(tmp_path):
    """One table, and the same figures as JSON with date, device and versions; goals are for real shapes."""
    status, shown, written = run(tmp_path, "--device", "cpu", "--small")
    assert status == 0, shown
    assert written["device"] == "cpu"
    assert {"python", "torch", "transformers", "dovetail-core"} <= set(written["versions"])
    assert {name: section["status"] for name, section in written["sections"].items()} == dict.fromkeys(
        ("correctness", "versus", "qwen-0.5b", "qwen-1.5b"), "ok"
    )
    for name, section in written["sections"].items():
        assert section["rows"]
        for row in section["rows"]:
            assert row["value"] >= 0
            assert row["goal"] is None
            assert f"| {name} | {row['measure']} |" in shown
    shares = [row["share"] for row in written["sections"]["qwen-1.5b"]["rows"] if row["share"] is not None]
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)


@pytest.mark.slow
def test_a_section_that_fails_is_told_and_the_others_run(tmp_path):
    """Here TRL is installed and broken."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "trl.py").write_text("raise ImportError('trl is broken')\n")
    sections = ["--only", "versus", "correctness"]
    status, shown, written = run(tmp_path, "--device", "cpu", "--small", *sections, path=str(tmp_path / "broken"))
    assert status == 1
    assert written["sections"]["correctness"]["status"] == "ok"
    assert written["sections"]["versus"]["status"] == "failed"
    assert "trl" in written["sections"]["versus"]["error"]
    assert "| versus | FAILED: " in shown
