"""One name for one thing, one version everywhere, and every plugin of the same shape."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for glob in ("plugins/*/*", "kernels/*") for path in ROOT.glob(f"{glob}/pyproject.toml"))
META = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = tomllib.loads((ROOT / "core/pyproject.toml").read_text())


def names(value: Path) -> str:
    """Of a plugin: its folder's, but for what all kernels run on."""
    return "kernels" if value == ROOT / "kernels/runtime" else value.name


@pytest.mark.parametrize("folder", PLUGINS, ids=names)
def test_a_plugin_has_one_name_and_the_usual_shape(folder):
    """Folder, distribution, module, extra, entry point; README and tests; the version of the core."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name = names(folder)
    module = f"dovetail_{name.replace('-', '_')}"
    assert project["name"] == f"dovetail-{name}"
    assert project["version"] == CORE["project"]["version"] == META["project"]["version"]
    assert (folder / module / "__init__.py").exists()
    assert list((folder / "tests").glob("test_*.py"))
    assert len((folder / "README.md").read_text().splitlines()) > 10, "the README says too little"
    targets = [target for group in project.get("entry-points", {}).values() for target in group.values()]
    assert all(target.split(":")[0].split(".")[0] == module for target in targets)
    extra = META["project"]["optional-dependencies"][name]
    assert extra == [f"dovetail-{name}>=0.1,<0.2"]
    assert "dovetail-core>=0.1,<0.2" in project["dependencies"]


def test_lists_name_every_folder():
    """local.txt, development.txt and the bundle `all`."""
    local, development = (ROOT / "local.txt").read_text(), (ROOT / "development.txt").read_text()
    everything = META["project"]["optional-dependencies"]["all"][0]
    for folder in PLUGINS:
        relative, name = folder.relative_to(ROOT), names(folder)
        assert f"dovetail-{name} @ file:{relative}\n" in local
        assert f"-e {relative}\n" in development
        assert name in everything.partition("[")[2].rstrip("]").split(",")


def test_imports_do_nothing():
    """import dovetail loads neither torch nor transformers."""
    code = "import dovetail, sys; sys.exit({'torch', 'transformers', 'attrs'} & set(sys.modules) or 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


FORBIDDEN = ("grpo", "ppo", "dpo", "vllm", "wandb")


def test_the_core_names_no_algorithm():
    """Not even inside another word."""
    for path in (ROOT / "core").rglob("*"):
        if path.is_file() and path.suffix in (".py", ".toml", ".md", ".txt"):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                assert not any(word in line.lower() for word in FORBIDDEN), f"{path}:{number}: {line}"


def test_the_core_stays_in_its_size(capsys):
    """No file over 400 lines; the table is printed. No more than 5,000 in all."""
    sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / "core").rglob("*.py")}
    with capsys.disabled():
        print("\nlines of the core")
        for folder in sorted({path.parent for path in sizes}):
            total = sum(size for path, size in sizes.items() if path.parent == folder)
            print(f"  {folder.relative_to(ROOT / 'core')!s:<24} {total:>6}")
        print(f"  {'all':<24} {sum(sizes.values()):>6}")
    assert max(sizes.values()) <= 400, max(sizes, key=sizes.__getitem__)
    assert sum(sizes.values()) <= CEILING


# Docstrings and blank lines included; what is no joint belongs into a plugin.
CEILING = 5000
