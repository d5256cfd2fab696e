"""One conversation between the policy and the model that plays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetail import DataError, Message, StepResult, StopReason, Task, ToolSpec
from dovetail_chat import Failed, Voice

if TYPE_CHECKING:
    from dovetail_llm import LanguageModel

_SCORE = re.compile(r"\bscore\b[^\w\-+.]{0,8}(\d+(?:\.\d+)?)(?!\w)", re.IGNORECASE)
_STRIDE = 1_000_003


class NoAnswer(RuntimeError):
    """The model that plays gave no answer, or none that can be read; the sample becomes invalid."""


class LanguageModelEpisode:
    """To the model that plays, the policy is the user and itself the assistant."""

    tools: Sequence[ToolSpec] = ()
    agents: Sequence[str] = ("agent",)

    def __init__(self, options: LanguageModel, voice: Voice) -> None:
        self._options, self._voice, self._over = options, voice, True

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin; without a task the seed chooses one of the train split."""
        if task is None:
            tasks = self._options.tasks("train")
            task = tasks[seed % len(tasks)]
        if not {"opening", "scenario"} <= set(task.columns):
            raise DataError(f"the task {task.id!r} needs the columns 'opening' and 'scenario'")
        role = self._options.role.replace("{done}", self._options.done)
        # Models want a user to speak first; what follows the opening is the policy's answer to it.
        self._said = [
            Message("system", role.replace("{scenario}", str(task.columns["scenario"]))),
            Message("user", "Begin."),
            Message("assistant", str(task.columns["opening"])),
        ]
        self._seed, self._turns, self._over = seed + self._options.seed * _STRIDE, 0, False
        return StepResult(task.messages)

    async def step(self, action: Message) -> StepResult:
        """Let the model answer in its role.

        Raises:
            RuntimeError: After the end or before reset, or when the model fails.
        """
        if self._over:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        self._turns += 1
        self._said.append(Message("user", action.content))
        reply = await self._ask()
        self._said.append(Message("assistant", reply))
        is_done, is_last = self._options.done in reply, self._turns >= self._options.max_turns
        if not (is_done or is_last):
            return StepResult((Message("user", reply),))
        self._over = True
        score = await self._score()
        return StepResult(
            reward=score,
            reward_components={} if self._options.question is None else {"score": score},
            terminated=is_done,
            truncated=not is_done,
            stop_reason=StopReason.COMPLETED if is_done else StopReason.MAX_TURNS,
            info={"last_reply": reply},
        )

    async def close(self) -> None:
        """Nothing to give back."""
        self._over = True

    async def _score(self) -> float:
        if self._options.question is None:
            return 0.0
        self._said.append(Message("user", self._options.question))
        judgement = await self._ask()
        found = _SCORE.findall(judgement)
        if not found or float(found[-1]) > self._options.best:
            raise NoAnswer(f"the model gave no score from 0 to {self._options.best:g}: {judgement.strip()[-80:]!r}")
        return float(found[-1]) / self._options.best

    async def _ask(self) -> str:
        try:
            return await self._voice.answer(self._said, (self._seed * 1009 + len(self._said)) % 2**62)
        except Failed as failure:
            raise NoAnswer(f"the model that plays gave no answer: {failure}") from failure
