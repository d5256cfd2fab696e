"""The plugin lock: which distribution and version each part of a run came from."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from dovetail.parts import Part


def plugin_lock(parts: Iterable[Part]) -> dict[str, Any]:
    """Versions of the core, of Python and of every part, as plain data."""
    lines = {
        f"{part.kind}/{part.name}": f"{part.provenance.distribution} {part.provenance.version}".strip()
        for part in parts
    }
    return {"core": _core_version(), "python": platform.python_version(), "parts": dict(sorted(lines.items()))}


def _core_version() -> str:
    try:
        return importlib.metadata.version("dovetail-core")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def compare_lock(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Differences that may change numbers, one line each; the patch version of Python is no such difference."""
    lines = []
    if saved["core"] != current["core"]:
        lines.append(f"dovetail-core: {saved['core']} then, {current['core']} now")
    for name in sorted({*saved["parts"], *current["parts"]}):
        before, now = saved["parts"].get(name, "absent"), current["parts"].get(name, "absent")
        if before != now:
            lines.append(f"{name}: {before} then, {now} now")
    return lines
