"""One problem, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetail import Message, StepResult, StopReason, Task, ToolSpec
from dovetail_math.answers import Ambiguous, final_answer
from dovetail_math.verification import is_correct

if TYPE_CHECKING:
    from dovetail_math import Math


class MathEpisode:
    """A single-turn episode; ``info`` shows what was read as the answer, never the expected one."""

    tools: Sequence[ToolSpec] = ()
    agents: Sequence[str] = ("agent",)

    def __init__(self, options: Math) -> None:
        self._options = options
        self._task: Task | None = None

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin; without a task the seed chooses one of the train split."""
        if task is None:
            tasks = self._options.tasks(split="train")
            task = tasks[seed % len(tasks)]
        self._task = task
        return StepResult(messages=task.messages)

    async def step(self, action: Message) -> StepResult:
        """Grade the answer; the episode is over.

        Raises:
            RuntimeError: After the end or before reset, or when the verifier itself fails.
        """
        if self._task is None:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        task, self._task = self._task, None
        options = self._options
        try:
            answer = final_answer(action.content, options.final_answer)
        except Ambiguous:
            return self._result(False, None)
        if answer is None:
            return self._result(False, None)
        gold = str(task.answer)
        right = await is_correct(
            answer, gold, symbolic=options.symbolic, timeout=options.verify_timeout, workers=options.workers
        )
        return self._result(right, answer)

    def _result(self, right: bool, answer: str | None) -> StepResult:
        return StepResult(
            reward=float(right),
            reward_components={"correct": float(right)},
            terminated=True,
            stop_reason=StopReason.COMPLETED if answer is not None else StopReason.PARSE_ERROR,
            info={"answer": answer},
        )

    async def close(self) -> None:
        """Nothing to give back: the workers belong to the process."""
        self._task = None
