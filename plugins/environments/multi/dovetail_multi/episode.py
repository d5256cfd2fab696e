"""An episode of one of several environments."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import attrs

from dovetail import DataError, Environment, Message, Part, StepResult, Task, ToolSpec
from dovetail_multi.mixture import COLUMN, unmark


class MultiEpisode:
    """Plays in the environment that the task names; before its reset it has no tools."""

    def __init__(self, members: Mapping[str, Part]) -> None:
        self._members = members
        self._name, self._inner = "", None

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """Of the environment in play."""
        return () if self._inner is None else self._inner.tools

    @property
    def agents(self) -> Sequence[str]:
        """Of the environment in play."""
        return ("agent",) if self._inner is None else self._inner.agents

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin; without a task the seed chooses the environment too, by the weights."""
        if task is None:
            weights = [part.weight for part in self._members.values()]
            (name,) = random.Random(seed).choices(list(self._members), weights)
        else:
            name, task = unmark(task)
        if name not in self._members:
            hint = f"it has the column {COLUMN!r}, one of {', '.join(self._members)}"
            raise DataError(f"the task {task.id if task else ''!r} is none of this mixture", hint=hint)
        if name != self._name:
            await self.close()
            self._inner = await self._members[name].instance.make()
            self._name = name
        return self._named(await self._playing().reset(seed=seed, task=task))

    async def step(self, action: Message) -> StepResult:
        """Answer a turn."""
        return self._named(await self._playing().step(action))

    async def close(self) -> None:
        """Close the environment in play."""
        inner, self._inner, self._name = self._inner, None, ""
        if inner is not None:
            await inner.close()

    def _playing(self) -> Environment:
        if self._inner is None:
            raise RuntimeError("step was called before reset, or after close")
        return self._inner

    def _named(self, result: StepResult) -> StepResult:
        """Components by environment, because two may use one word for different things."""
        named = {f"{self._name}.{word}": value for word, value in result.reward_components.items()}
        return attrs.evolve(result, reward_components=named)
