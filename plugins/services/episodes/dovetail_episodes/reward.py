"""The reward of an environment as a reward part: read off episodes that were played, or given to a single turn."""

from __future__ import annotations

import asyncio
import zlib

import attrs

from dovetail import Invalid, Message, Rollouts, Task
from dovetail.parts import Part, hookimpl, line_of


@attrs.frozen
class EnvironmentReward:
    """What the environment gave in all turns; of completions that are no episode, what it gives them as its one turn."""

    environment: Part
    traits = ("by_row",)  # it asks for the rollouts, and yet gives a row the same whatever is beside it

    @hookimpl
    async def score(self, rollouts: Rollouts) -> list[float | Invalid]:
        """One number per sequence."""
        played = rollouts.rewards.get(self.environment.label)
        if played is not None:
            reasons = played.reasons
            return [
                Invalid(reasons[row]) if row in reasons else value for row, value in enumerate(played.values.tolist())
            ]
        rows = zip(rollouts.texts, rollouts.tasks, strict=True)
        return list(await asyncio.gather(*(self._single_turn(text, task) for text, task in rows)))

    async def _single_turn(self, text: str, task: Task) -> float | Invalid:
        try:
            environment = await self.environment.instance.make()
            try:
                # Samples of a task meet the same episode, wherever in a batch they are.
                await environment.reset(seed=zlib.crc32(task.id.encode()), task=task)
                return float((await environment.step(Message("assistant", text))).reward)
            finally:
                await environment.close()
        except Exception as error:  # any failure of an episode makes this sample invalid, never 0
            place = line_of(error)
            return Invalid(f"{type(error).__name__}: {error}" + (f" at {place}" if place else ""))
