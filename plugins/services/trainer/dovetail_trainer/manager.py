"""Lifecycle hooks: told to every part of a run that listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pluggy

from dovetail.hookspecs import SPECS
from dovetail.parts import Part


class PartManager:
    """The pluggy manager of one run: the parts that it named, called in config order."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._manager = pluggy.PluginManager("dovetail")
        for specs in SPECS:
            self._manager.add_hookspecs(specs)
        for part in reversed(parts):  # pluggy calls first what was registered last
            self._manager.register(_Holder(part))

    def broadcast(self, hook: str, **arguments: Any) -> None:
        """Call a lifecycle hook of every part that implements it."""
        getattr(self._manager.hook, hook)(**arguments)


class _Holder:
    """Gives a part's hooks to pluggy under an identity of its own, because pluggy tells plugins apart by equality."""

    def __init__(self, part: Part) -> None:
        vars(self).update(
            {hook: getattr(part.instance, hook) for spec in SPECS for hook in vars(spec) if part.implements(hook)}
        )
