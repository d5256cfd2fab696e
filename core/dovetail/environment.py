"""The interface of environments: message in, message out, one instance for each episode."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from dovetail.messages import Message, StepResult, Task, ToolSpec


@runtime_checkable
class Environment(Protocol):
    """One episode. Tokens live outside: an environment reads and writes messages."""

    tools: Sequence[ToolSpec]
    agents: Sequence[str]

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin the episode; the same seed and task give the same one."""

    async def step(self, action: Message) -> StepResult:
        """Answer the policy's turn. After the end it raises RuntimeError."""

    async def close(self) -> None:
        """Give back processes and files. May be called twice."""


class SyncEnvironment:
    """Base for authors of blocking environments: write ``on_reset`` and ``on_step``, which run in a thread."""

    tools: Sequence[ToolSpec] = ()
    agents: Sequence[str] = ("agent",)
    _ended = True

    def on_reset(self, seed: int, task: Task | None) -> StepResult:
        """Begin the episode."""
        raise TypeError(f"{type(self).__name__} must define on_reset(seed, task)")

    def on_step(self, action: Message) -> StepResult:
        """Answer a turn."""
        raise TypeError(f"{type(self).__name__} must define on_step(action)")

    def on_close(self) -> None:
        """Give back what the episode holds; nothing by default."""

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        self._ended = True
        return self._told(await asyncio.to_thread(self.on_reset, seed, task))

    async def step(self, action: Message) -> StepResult:
        if self._ended:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        return self._told(await asyncio.to_thread(self.on_step, action))

    def _told(self, result: StepResult) -> StepResult:
        self._ended = result.terminated or result.truncated
        return result

    async def close(self) -> None:
        self._ended = True
        await asyncio.to_thread(self.on_close)
