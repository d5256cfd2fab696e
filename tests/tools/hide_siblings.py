"""A pytest plugin that leaves one plugin alone with the core: every other dovetail distribution is hidden.

    DOVETAIL_ALONE=dovetail-grpo pytest -p hide_siblings plugins/algorithms/grpo/tests

What a distribution declares as its dependencies stays visible, and so does the conformance kit, which its tests use.
"""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable


def needed_by(name: str) -> set[str]:
    """The dovetail distributions that one needs, itself included."""
    found, todo = {"dovetail-core"}, [name]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            requirements = importlib.metadata.requires(current) or []
            names = [re.match(r"[A-Za-z0-9._-]+", line)[0] for line in requirements if "extra ==" not in line]  # type: ignore[index]
            todo += [needed for needed in names if needed.startswith("dovetail-")]
    return found


class Refuser(importlib.abc.MetaPathFinder):
    """Refuses to import the modules of hidden distributions."""

    def __init__(self, hidden: Iterable[str]) -> None:
        self._modules = {name.replace("-", "_") for name in hidden}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in self._modules:
            raise ModuleNotFoundError(f"{fullname} is hidden: this plugin does not declare it", name=fullname)


def hide(alone: str) -> None:
    visible = needed_by(alone) | needed_by("dovetail-testing")
    everything = [d for d in importlib.metadata.distributions() if d.name.startswith("dovetail")]
    hidden = {d.name for d in everything} - visible
    original = importlib.metadata.distributions

    def distributions(**kwargs: object) -> list[importlib.metadata.Distribution]:
        return [d for d in original(**kwargs) if d.name not in hidden]  # type: ignore[arg-type]

    importlib.metadata.distributions = distributions  # type: ignore[assignment]
    sys.meta_path.insert(0, Refuser(hidden))


if "DOVETAIL_ALONE" in os.environ:
    hide(os.environ["DOVETAIL_ALONE"])
