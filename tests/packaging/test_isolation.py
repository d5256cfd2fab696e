"""Each plugin's tests pass with the core and that plugin alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for glob in ("plugins/*/*", "kernels/*") for path in ROOT.glob(f"{glob}/pyproject.toml"))
SLOW = ("quickstart", "runtime", "sandbox", "sentiment", "testing")  # more than half a minute


@pytest.mark.parametrize(
    "folder",
    [pytest.param(f, id=f.name, marks=[pytest.mark.slow] if f.name in SLOW else []) for f in PLUGINS],
)
def test_a_plugin_passes_alone(folder):
    """Every other dovetail distribution is hidden."""
    name = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"]
    environment = {**os.environ, "DOVETAIL_ALONE": name, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT / "tests/tools")
    environment.pop("COVERAGE_PROCESS_CONFIG", None)  # measured elsewhere, and tracing a training run is slow
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "hide_siblings",
        "-p",
        "no:cacheprovider",
        str(folder / "tests"),
    ]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]
