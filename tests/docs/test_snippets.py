"""Every Python and configuration block in the documentation runs."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.registry import registry
from dovetail_trainer.config.load import load

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for pattern in ("README.md", "docs/**/*.md", "plugins/*/*/README.md", "kernels/**/README.md", "core/README.md")
    for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"(?:<!-- snippet: (?P<mark>[^>]*?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.S)


def blocks(path: Path, language: str, mark: str | None = None) -> list[str]:
    found = [match for match in BLOCK.finditer(path.read_text()) if match["language"] == language]
    return [match["code"] for match in found if match["mark"] == mark]


@pytest.mark.parametrize("path", [p for p in FILES if blocks(p, "python")], ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path):
    """One after another, in one namespace, in an empty folder."""
    before = {kind: dict(registry(kind)._own) for kind in ("rewards", "losses", "advantages")}
    try:
        with contextlib.chdir(tmp_path):
            namespace: dict[str, object] = {"__name__": "snippet"}
            # Tracing shows source lines, so each block gets a file of its own.
            for number, code in enumerate(blocks(path, "python")):
                file = tmp_path / f"block{number}.py"
                file.write_text(code)
                exec(compile(code, str(file), "exec"), namespace)
    finally:
        for kind, own in before.items():
            registry(kind)._own.clear()
            registry(kind)._own.update(own)


@pytest.mark.parametrize("path", [p for p in FILES if blocks(p, "yaml", "config")], ids=lambda p: p.stem)
def test_configuration_blocks_load(path, tmp_path):
    """Marked blocks are whole configurations."""
    for code in blocks(path, "yaml", "config"):
        (tmp_path / "run.yaml").write_text(code)
        load(tmp_path / "run.yaml")


def test_the_readme_configuration_loads(tmp_path):
    """It is checked without loading its model."""
    (code,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "run.yaml").write_text(code)
    assert load(tmp_path / "run.yaml").steps == 200


def test_the_readme_names_the_commands_that_ci_runs():
    """One test command, the same for users and CI."""
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    assert "pip install tox && tox" in readme
    assert "pip install --quiet tox && tox" in script


def test_the_reference_of_the_configuration_is_up_to_date():
    """Every setting, with its type, default and meaning, as the classes have it."""
    made = subprocess.run(
        [sys.executable, "-c", "import settings_tables as s; print(s.PAGE.read_text() == s.written())"],
        cwd=ROOT / "docs" / "_ext", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout.strip() == "True", "run python docs/_ext/settings_tables.py"


def test_the_table_of_all_plugins_is_up_to_date():
    """As the projects' metadata says; `python docs/_ext/catalogue.py` writes it anew."""
    done = subprocess.run(
        [sys.executable, "-c", "import catalogue as c; print(c.PAGE.read_text() == c.written())"],
        cwd=ROOT / "docs" / "_ext", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "True"
