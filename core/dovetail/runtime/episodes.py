"""Single-turn episodes: an environment answers each completion, and its reward is one reward among others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs

from dovetail.messages import Message
from dovetail.parts import Part, hookimpl, line_of
from dovetail.rollouts import Invalid, Tasks


@attrs.frozen
class EpisodeReward:
    """The reward of an environment, as a reward part: reset with the task, one step with the completion.

    An episode that raises makes its sample INVALID, with the reason.
    """

    environment: Part

    @hookimpl
    async def score(self, texts: Sequence[str], tasks: Tasks) -> list[float | Invalid]:
        episodes = (self._episode(text, row, tasks) for row, text in enumerate(texts))
        return list(await asyncio.gather(*episodes))

    async def _episode(self, text: str, row: int, tasks: Tasks) -> float | Invalid:
        try:
            environment = await self.environment.instance.make()
            try:
                await environment.reset(seed=row, task=tasks[row])
                result = await environment.step(Message("assistant", text))
            finally:
                await environment.close()
        except Exception as error:  # any failure of an episode makes this sample invalid, never 0
            return Invalid(f"{type(error).__name__}: {error} at {line_of(error)}")
        return float(result.reward)
