"""One problem; one answer, or several with a word on each that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetail import Message, StepResult, StopReason, Task, ToolSpec
from dovetail_code.answers import program
from dovetail_code.feedback import told
from dovetail_code.grading import components, grade, worth

if TYPE_CHECKING:
    from dovetail_code import Code
    from dovetail_sandbox import Verdict


class CodeEpisode:
    """The reward is given at the end, for the last program; ``info`` counts tests and shows none."""

    tools: Sequence[ToolSpec] = ()
    agents: Sequence[str] = ("agent",)

    def __init__(self, options: Code) -> None:
        self._options = options
        self._task: Task | None = None
        self._turn = 0

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin; without a task the seed chooses one of the train split."""
        if task is None:
            tasks = self._options.tasks(split="train")
            task = tasks[seed % len(tasks)]
        self._task, self._turn = task, 0
        return StepResult(messages=task.messages)

    async def step(self, action: Message) -> StepResult:
        """Judge a program: the end, or what failed and another turn.

        Raises:
            RuntimeError: After the end or before reset, or when the program could not be judged.
        """
        task, self._task = self._task, None
        if task is None:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        options, problem = self._options, task.columns
        self._turn += 1
        source = program(action.content, options.answer, problem["prefix"], problem["functions"])
        verdict = None if source is None else await grade(source, problem, options)
        has_passed = verdict is not None and verdict.has_passed
        if has_passed or self._turn >= options.turns:
            return self._end(verdict, has_passed)
        self._task = task
        return StepResult(messages=[Message("user", told(verdict, options.feedback))], info=self._info(verdict))

    def _end(self, verdict: Verdict | None, has_passed: bool) -> StepResult:
        options = self._options
        out_of_turns = options.turns > 1 and not has_passed
        reason = StopReason.PARSE_ERROR if verdict is None else StopReason.COMPLETED
        return StepResult(
            reward=worth(verdict, options.reward) * options.discount ** (self._turn - 1),
            reward_components=components(verdict),
            terminated=not out_of_turns,
            truncated=out_of_turns,
            stop_reason=StopReason.MAX_TURNS if out_of_turns else reason,
            info=self._info(verdict),
        )

    def _info(self, verdict: Verdict | None) -> dict[str, object]:
        if verdict is None:
            return {"turn": self._turn, "status": "no program"}
        return {"turn": self._turn, "status": verdict.status.value, "passed": verdict.passed, "total": verdict.total}

    async def close(self) -> None:
        """Nothing to give back: the sandbox belongs to the process."""
        self._task = None
