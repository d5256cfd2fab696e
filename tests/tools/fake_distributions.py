"""Real, tiny, installed distributions for discovery tests: a dist-info folder and a module on sys.path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail import catalog

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(name, entry_points, modules, requires) puts a distribution on the path until the test ends."""

    def do(name: str, entry_points: str, modules: dict[str, str], requires: str = "dovetail-core>=0.1,<0.2") -> Path:
        site = tmp_path / name
        info = site / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\nRequires-Dist: {requires}\n"
        )
        (info / "entry_points.txt").write_text(entry_points)
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(site))
        catalog.entries.cache_clear()
        return site

    before = set(sys.modules)
    yield do
    for module in set(sys.modules) - before:
        if module.startswith(("plugin_", "other_")):
            del sys.modules[module]
    monkeypatch.undo()
    catalog.entries.cache_clear()
