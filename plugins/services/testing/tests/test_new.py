"""dovetail new writes packages that install, pass the kit, and show in the list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail_trainer.cli.main import main

KINDS = ("reward", "loss", "advantages", "environment", "logger")


def run(command: list[str], site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


def dovetail(*arguments: str) -> list[str]:
    return ["-c", "from dovetail_trainer.cli.main import run; run()", *arguments]


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> tuple[Path, Path]:
    """The folder with the written packages, and the one that they are installed into."""
    folder, site = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("site")
    for kind in KINDS:
        assert main(["new", kind, f"new-{kind}", "--path", str(folder)]) == 0
    written = [str(path) for path in folder.iterdir()]
    command = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), *written]
    finished = run(command, site, folder)
    assert finished.returncode == 0, finished.stderr
    return folder, site


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_is_four_files_that_pass_the_kit(packages, kind):
    """Its own tests, in a process of their own, outside the repository."""
    folder, site = packages
    package = folder / f"dovetail-new-{kind}"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix in (".toml", ".md", ".py")]
    assert len(files) == 4
    finished = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(package)], site, package)
    assert finished.returncode == 0, finished.stdout[-3000:]


def test_new_parts_are_listed(packages):
    """With kind, name and distribution."""
    folder, site = packages
    rows = json.loads(run(dovetail("plugins", "--json"), site, folder).stdout)
    assert {f"new-{kind}" for kind in KINDS} <= {row["name"] for row in rows}


def test_deleting_one_abs_makes_the_kit_fail(packages, tmp_path):
    """The kit is not decoration."""
    folder, site = packages
    module = site / "dovetail_new_reward" / "__init__.py"
    text = module.read_text()
    assert ".abs()" in text
    try:
        module.write_text(text.replace(".abs()", ""))
        finished = run(
            ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "dovetail-new-reward")], site, folder
        )
    finally:
        module.write_text(text)
    assert finished.returncode == 1
    assert "scores lie in [-1, 0]" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rewrd", "x"], "did you mean 'reward'?"),
        (["reward", "Brevity"], "is no name for a part"),
        (["reward", "class"], "is no name for a part"),
    ],
)
def test_names_that_will_not_do_are_refused(arguments, message, tmp_path, capsys):
    """Nothing is written."""
    assert main(["new", *arguments, "--path", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_shows_the_command_without_importing_it(tmp_path):
    """Its line comes from the metadata."""
    code = "import sys; from dovetail_trainer.cli.main import main; main(['--help']); sys.exit('dovetail_testing' in sys.modules)"
    finished = run(["-c", code], tmp_path, tmp_path)
    assert finished.returncode == 0
    assert "new        (from dovetail-testing)" in finished.stdout


def test_names_that_are_taken_are_refused(packages, tmp_path):
    """Two distributions with one name would clash."""
    _, site = packages
    finished = run(dovetail("new", "reward", "new-reward"), site, tmp_path)
    assert finished.returncode == 2
    assert "dovetail-new-reward already offers the reward 'new-reward'" in finished.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    """The second call is refused."""
    assert main(["new", "reward", "once", "--path", str(tmp_path)]) == 0
    assert main(["new", "reward", "once", "--path", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
