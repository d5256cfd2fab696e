"""The plugin lock: which distribution and version each part of a run came from."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from dovetail.parts import Part


def plugin_lock(parts: Iterable[Part]) -> dict[str, Any]:
    """Versions of the core, of Python and of every part, as plain data."""
    try:
        core = importlib.metadata.version("dovetail-core")
    except importlib.metadata.PackageNotFoundError:
        core = "not installed"
    releases = {str(part): part.provenance.release for part in parts}
    return {"core": core, "python": platform.python_version(), "parts": dict(sorted(releases.items()))}


def compare_lock(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Differences that may change numbers, one line each; the patch version of Python is no such difference."""
    before = {"dovetail-core": saved["core"], **saved["parts"]}
    now = {"dovetail-core": current["core"], **current["parts"]}
    return [
        f"{name}: {before.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
