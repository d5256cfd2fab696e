"""One episode on an OpenEnv server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dovetail import Message, StepResult, StopReason, Task, ToolCall, ToolSpec
from dovetail_episodes.calls import Parsed, parse_calls
from dovetail_openenv.client import Connection, Misunderstood, OpenEnvError
from dovetail_openenv.words import action_of, shown

if TYPE_CHECKING:
    from dovetail_openenv import OpenEnv


class OpenEnvEpisode:
    """A turn is an action, or some calls of the environment's tools."""

    agents: Sequence[str] = ("agent",)

    def __init__(self, options: OpenEnv) -> None:
        self._options = options
        self._connection = Connection(options.url, options.timeout)
        self.tools: Sequence[ToolSpec] = ()
        self._turns = self._calls = 0
        self._is_over = True

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin; without a task, or with one that names no seed, the seed is the episode's."""
        start = dict(task.columns.get("reset", {})) if task is not None else {}
        answer = await self._connection.reset({"seed": seed, **start}, self._options.wait)
        self._turns = self._calls = 0
        self._is_over = False
        if self._options.calls:
            self.tools = await self._listed()
        text = shown(answer["observation"], self._options.show)
        return StepResult((Message("user", self._options.prompt.replace("{observation}", text)),))

    async def _listed(self) -> Sequence[ToolSpec]:
        told = (await self._connection.step({"type": "list_tools"}))["observation"].get("tools")
        if not isinstance(told, list):
            raise OpenEnvError("the environment offers no tools: leave out `calls`")
        schemas = ("input_schema", "inputSchema", "parameters")
        return tuple(
            ToolSpec(each["name"], each.get("description", ""), next((each[s] for s in schemas if s in each), {}))
            for each in told
        )

    async def step(self, action: Message) -> StepResult:
        """Act.

        Raises:
            RuntimeError: After the end or before reset, or the server failed.
        """
        if self._is_over:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        self._turns += 1
        if self._options.calls:
            parsed = Parsed(action.content, action.tool_calls)
            if not action.tool_calls:
                parsed = parse_calls(action.content, self._options.calls, first=self._calls)
            self._calls += len(parsed.calls)
            if parsed.calls or parsed.problems:
                return await self._called(parsed)
            if not self._options.action:  # it says no more, and there is nobody to say it to
                return self._result((), 0.0, done=True)
        try:
            answer = await self._connection.step(action_of(action.content, self._options.action, self._options.read))
        except Misunderstood as error:
            return self._result([Message("user", f"That is no action: {error}.")], 0.0, done=False)
        text = self._options.turn_prompt.replace("{observation}", shown(answer["observation"], self._options.show))
        return self._result([Message("user", text)], reward_of(answer), done=bool(answer.get("done")))

    async def _called(self, parsed: Parsed) -> StepResult:
        messages, reward, done = [], 0.0, False
        for call in parsed.calls:
            if done:
                text = "error: the episode was over before this call"
            else:
                answer = await self._one(call)
                text, reward, done = _tool_text(answer), reward + reward_of(answer), bool(answer.get("done"))
            messages.append(Message("tool", text, tool_call_id=call.id, name=call.name))
        messages += [Message("tool", f"error: {problem}") for problem in parsed.problems]
        return self._result(messages, reward, done=done)

    async def _one(self, call: ToolCall) -> Mapping[str, Any]:
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as error:
            return {"observation": {"error": f"the arguments are no JSON: {error}"}}
        try:
            action = {"type": "call_tool", "tool_name": call.name, "arguments": arguments}
            return await self._connection.step(action)
        except Misunderstood as error:
            return {"observation": {"error": str(error)}}

    def _result(self, messages: Sequence[Message], reward: float, *, done: bool) -> StepResult:
        cut = not done and self._turns >= self._options.max_turns
        self._is_over = done or cut
        return StepResult(
            messages=messages,
            reward=reward,
            reward_components={"openenv": reward},
            terminated=done,
            truncated=cut,
            stop_reason=StopReason.COMPLETED if done else StopReason.MAX_TURNS if cut else None,
        )

    async def close(self) -> None:
        """Hang up; the server closes its environment."""
        self._is_over = True
        await self._connection.close()


def reward_of(answer: Mapping[str, Any]) -> float:
    """What the server gave; none is 0. What is no finite number makes the sample invalid."""
    reward = answer.get("reward")
    if reward is None:
        return 0.0
    if not isinstance(reward, int | float) or not math.isfinite(reward):
        raise OpenEnvError(f"the reward {reward!r} is no finite number")
    return float(reward)


def _tool_text(answer: Mapping[str, Any]) -> str:
    """The result of a call, or its error."""
    observation = answer["observation"]
    error = observation.get("error")
    if error:
        return f"error: {error.get('message', error) if isinstance(error, Mapping) else error}"
    result = observation.get("result")
    if isinstance(result, Mapping) and isinstance(result.get("content"), list):  # as MCP puts it
        blocks = [b.get("text", f"[{b.get('type')}]") for b in result["content"] if isinstance(b, Mapping)]
        return ("error: " if result.get("is_error") or result.get("isError") else "") + "\n".join(map(str, blocks))
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
