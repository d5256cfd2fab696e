"""Run Python that nobody has read, confined: ``Sandbox().run("print(6 * 7)")``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail_sandbox.results import Failure, Limits, Result, Status, Verdict
    from dovetail_sandbox.sandbox import Sandbox, Tests, shared
    from dovetail_sandbox.session import Session
    from dovetail_sandbox.tiers import probe

__all__ = ["Failure", "Limits", "Result", "Sandbox", "Session", "Status", "Tests", "Verdict", "probe", "shared"]

_HOME = {"Sandbox": "sandbox", "Session": "session", "Tests": "sandbox", "shared": "sandbox", "probe": "tiers"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'results')}"), name)
