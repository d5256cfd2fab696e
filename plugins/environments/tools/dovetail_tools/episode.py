"""One task: turns with calls are answered by tools, a turn without is the final answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from dovetail import Message, StepResult, StopReason, Task, ToolCall, ToolSpec
from dovetail_episodes.calls import Parsed, parse_calls
from dovetail_tools.tool import Outcome
from dovetail_tools.toolbox import Toolbox

if TYPE_CHECKING:
    from dovetail_tools import Tools

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_WRONG = {"correct": 0.0}
_SYNTAX = {
    "hermes": '<tool_call>{"name": "<tool>", "arguments": {…}}</tool_call>',
    "llama": '{"name": "<tool>", "parameters": {…}} and nothing else',
    "json": '```json\n{"name": "<tool>", "arguments": {…}}\n```',
    "terse": "[<tool> <argument>]",
}


class ToolEpisode:
    """An episode with a toolbox of its own; ``info`` lists the calls of a turn, never the expected answer."""

    agents: Sequence[str] = ("agent",)

    def __init__(self, options: Tools, toolbox: Toolbox) -> None:
        self._options, self._toolbox = options, toolbox
        self._task: Task | None = None
        self._turns = self._calls = 0
        self._open_steps: list[str] = []

    @property
    def tools(self) -> Sequence[ToolSpec]:
        return self._toolbox.specs if self._options.instructions == "template" else ()

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin; without a task the seed chooses one of the train split."""
        if task is None:
            tasks = self._options.tasks(split="train")
            task = tasks[seed % len(tasks)]
        self._task, self._turns, self._calls = task, 0, 0
        self._open_steps = list(task.columns.get("steps", ()))
        await self._toolbox.open(task)
        told = [Message("system", self._instructions())] if self._options.instructions == "system" else []
        return StepResult(messages=(*told, *task.messages))

    async def step(self, action: Message) -> StepResult:
        """Carry out the turn's calls, or grade the answer.

        Raises:
            RuntimeError: After the end or before reset.
        """
        if self._task is None:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        self._turns += 1
        if action.tool_calls:
            parsed = Parsed(action.content, action.tool_calls)
        else:
            parsed = parse_calls(action.content, self._options.call_format, first=self._calls)
        if not parsed.calls and not parsed.problems:
            return self._grade(action.content, self._task)
        self._calls += len(parsed.calls)
        outcomes = await asyncio.gather(*map(self._call, parsed.calls[: self._options.max_calls]))
        return self._answer(parsed, outcomes)

    async def _call(self, call: ToolCall) -> Outcome:
        return await self._toolbox.call(call.name, call.arguments)

    def _answer(self, parsed: Parsed, outcomes: Sequence[Outcome]) -> StepResult:
        messages = [self._message(o, call.id, call.name) for call, o in zip(parsed.calls, outcomes, strict=False)]
        for call in parsed.calls[len(outcomes) :]:
            problem = f"error: one turn may have {self._options.max_calls} calls, and this one is more"
            messages.append(self._message(Outcome(problem, ok=False), call.id, call.name))
        messages += [self._message(Outcome(f"error: {problem}", ok=False)) for problem in parsed.problems]
        steps = sum(self._is_new_step(outcome) for outcome in outcomes)
        reward = self._options.step_reward * steps
        is_last = self._turns >= self._options.max_turns
        if is_last:
            self._task = None
        return StepResult(
            messages=messages,
            reward=reward,
            reward_components={
                **({"steps": reward} if self._options.step_reward else {}),
                **(_WRONG if is_last else {}),
            },
            truncated=is_last,
            stop_reason=StopReason.MAX_TURNS if is_last else None,
            info={"calls": [{"name": m.name, "ok": m.meta["ok"]} for m in messages]},
        )

    def _message(self, outcome: Outcome, id: str | None = None, name: str | None = None) -> Message:
        content = self._options.result.replace("{result}", outcome.text)
        return Message("tool", content, tool_call_id=id, name=name, meta={"ok": outcome.ok})

    def _is_new_step(self, outcome: Outcome) -> bool:
        """Whether a tool gave one of the results on the way that none gave before."""
        if not outcome.ok or outcome.text not in self._open_steps:
            return False
        self._open_steps.remove(outcome.text)
        return True

    def _grade(self, said: str, task: Task) -> StepResult:
        self._task = None
        answer = said.strip() if self._options.final_answer == "whole" else _last_number(said)
        right = answer is not None and _same(answer, str(task.answer))
        return StepResult(
            reward=float(right),
            reward_components={"correct": float(right)},
            terminated=True,
            stop_reason=StopReason.PARSE_ERROR if answer is None else StopReason.COMPLETED,
            info={"answer": answer},
        )

    def _instructions(self) -> str:
        listed = "\n".join(
            f"- {spec.name}: {spec.description} Arguments: {json.dumps(spec.parameters)}"
            for spec in self._toolbox.specs
        )
        return f"You may call these tools:\n{listed}\nTo call one, write {_SYNTAX[self._options.call_format]}."

    async def close(self) -> None:
        """Give back what the tools hold."""
        self._task = None
        await self._toolbox.close()


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def _same(answer: str, expected: str) -> bool:
    """As text, or as exact numbers."""
    if answer.strip() == expected.strip():
        return True
    try:
        return Fraction(answer.replace(",", "").strip()[:100]) == Fraction(expected.replace(",", "").strip())
    except (ValueError, ZeroDivisionError):
        return False
