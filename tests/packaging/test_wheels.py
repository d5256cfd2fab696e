"""Wheels build, install from a folder, and run without our sources."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for glob in ("plugins/*/*", "kernels/*") for path in ROOT.glob(f"{glob}/pyproject.toml"))
FOLDERS = [ROOT, ROOT / "core", *PLUGINS]
SMOKE = """
import dovetail as dt
policy = dt.Agent.tiny(hidden=16, layers=1, heads=2, generator=Echo(), trainable=True)
trainer = dt.Trainer("grpo", policy=policy, environment=dt.environments.math(), batch_size=2, rollouts_every=0,
                     sampling=dt.Sampling(max_tokens=2))
print(trainer.fit(1)["loss"])
"""
ECHO = """
import dovetail as dt, torch
class Echo:
    @dt.hookimpl
    def generate(self, prompts, samples):
        rows = prompts.repeat(samples)
        rows = dt.Ragged.from_rows([row[:2] for row in rows])
        return dt.Generated(rows, rows.map(lambda t: -t.float() / 50), ("length",) * len(rows))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, *map(str, FOLDERS)], check=True, cwd=folder)
    return folder


@pytest.mark.slow
def test_wheels_install_and_run_without_our_sources(wheels, tmp_path):
    """dovetail[grpo,math] brings exactly what it needs; a training step runs; plugins lists them."""
    assert len(list(wheels.glob("*.whl"))) == len(FOLDERS)
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin/python"
    # The libraries of this environment serve, without our editable installs: a .pth file adds the folder, not its .pth files.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(site) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--ignore-installed",
        "--no-index",
        "--find-links",
        str(wheels),
        "--no-deps",
    ]
    subprocess.run([*command, "dovetail", *needed(wheels, ["grpo", "math"])], check=True)
    found = sorted(d.name for d in importlib.metadata.distributions(path=[site]) if d.name.startswith("dovetail"))
    assert found == [
        "dovetail",
        "dovetail-core",
        "dovetail-episodes",
        "dovetail-grpo",
        "dovetail-math",
        "dovetail-trainer",
    ]
    ran = subprocess.run([python, "-c", ECHO + SMOKE], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    where = subprocess.run(
        [python, "-c", "import dovetail; print(dovetail.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert where.stdout.startswith(str(environment))


def needed(wheels: Path, extras: list[str]) -> list[str]:
    """The dovetail distributions that pip would choose for these extras, read from the wheels' own metadata."""
    import re
    import zipfile

    requirements: dict[str, list[str]] = {}
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            metadata = next(n for n in archive.namelist() if n.endswith("METADATA"))
            lines = archive.read(metadata).decode().splitlines()
            name = next(line.split(": ")[1] for line in lines if line.startswith("Name: "))
            requirements[name] = [line.split(": ", 1)[1] for line in lines if line.startswith("Requires-Dist: ")]
    found: set[str] = set()
    todo = [
        line for line in requirements["dovetail"]
        if "extra ==" not in line or re.search(r"extra == ['\"](\w[\w-]*)['\"]", line)[1] in extras  # type: ignore[index]
    ]  # fmt: skip
    while todo:
        name = re.match(r"[\w-]+", todo.pop())[0]  # type: ignore[index]
        if name.startswith("dovetail-") and name not in found:
            found.add(name)
            todo += [line for line in requirements[name] if "extra ==" not in line]
    return sorted(found)
