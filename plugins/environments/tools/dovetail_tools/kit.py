"""Tools that hold something of an episode's own: a folder, a process, a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from dovetail import Task
from dovetail_tools.tool import Tool


@runtime_checkable
class Kit(Protocol):
    """One is made for each episode. A class with these two methods is all that it takes."""

    async def open(self, task: Task) -> Sequence[Callable[..., Any] | Tool]:
        """Begin an episode; what the policy may call in it.

        A DovetailError stops the run, because it would be so in every episode; another error makes the sample invalid.
        """

    async def close(self) -> None:
        """Give back what it holds. May be called twice, also where ``open`` failed, and be opened again."""
