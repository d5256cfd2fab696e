"""One episode: the environment and the policy in turn, until one of them or a limit ends it."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs

from dovetail.errors import DataError, DovetailError
from dovetail.messages import Environment, StepResult, StopReason, Task
from dovetail.parts import line_of
from dovetail.rollouts import RewardStatus
from dovetail_episodes.conversation import Conversation
from dovetail_episodes.desk import Desk
from dovetail_episodes.settings import EpisodeSettings

T = TypeVar("T")
CLOSING_SECONDS = 5.0  # that an environment has to give back what it holds
_UNPLAYED = "it was not played to its end"
_GOLDEN = 0x9E3779B97F4A7C15


class Late(Exception):
    """A deadline has passed."""


async def within(seconds: float | None, what: str, work: Awaitable[T]) -> T:
    """Await ``work``; Late if it takes longer."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise Late(f"{what} gave no answer within {seconds:g} s") from None
        raise


@attrs.define(eq=False)
class Episode:
    """One episode and what became of it.

    Args:
        row: Its place among the samples, by task.
        task: What it starts from.
        seed: Of the environment; the samples of a task share it.
        turn_seed: Of the policy's tokens; each turn derives its own.
    """

    row: int
    task: Task
    seed: int
    turn_seed: int
    conversations: dict[str, Conversation] = attrs.field(factory=dict)  # by agent
    components: defaultdict[str, float] = attrs.field(factory=lambda: defaultdict(float))
    counts: Counter[str] = attrs.field(factory=Counter)  # turns, tool calls
    is_truncated: bool = False
    stop_reason: StopReason = StopReason.ERROR
    status: RewardStatus = RewardStatus.INVALID
    reason: str = _UNPLAYED

    async def play(self, make: Callable[[], Awaitable[Environment]], table: Table) -> None:
        """Play to the end. Whatever the environment does, it is written down here and raises nothing.

        Raises:
            DovetailError: Something is wrong that would be so in every episode.
        """
        try:
            await within(table.settings.deadline, "the episode", self._play(make, table))
        except Late as error:
            self._fail(RewardStatus.TIMEOUT, StopReason.TIMEOUT, str(error))
        except asyncio.CancelledError:
            self._fail(RewardStatus.INVALID, StopReason.CANCELLED, "it was cancelled")
            raise
        except DovetailError:
            raise
        except Exception as error:  # any failure of an environment makes this sample invalid, never 0
            place = line_of(error)
            reason = f"{type(error).__name__}: {error}" + (f" at {place}" if place else "")
            self._fail(RewardStatus.INVALID, StopReason.ERROR, reason)

    def give_up(self, reason: str) -> None:
        """Call an episode that has not ended a timeout; whatever still plays it must not be waited for."""
        if self.status != RewardStatus.OK and self.stop_reason == StopReason.ERROR and self.reason == _UNPLAYED:
            self._fail(RewardStatus.TIMEOUT, StopReason.TIMEOUT, reason)

    def _fail(self, status: RewardStatus, stop_reason: StopReason, reason: str) -> None:
        self.status, self.stop_reason, self.reason, self.is_truncated = status, stop_reason, reason, True

    async def _play(self, make: Callable[[], Awaitable[Environment]], table: Table) -> None:
        environment = await within(table.step_timeout, "make", make())
        try:
            result = await within(table.step_timeout, "reset", environment.reset(seed=self.seed, task=self.task))
            self.conversations = {name: table.open(environment) for name in environment.agents}
            if result.terminated or result.truncated:
                raise RuntimeError("the episode ended at its reset, before the policy's first turn")
            while not (result.terminated or result.truncated):
                result = await self._turn(environment, result, table)
            self._end(result)
        finally:
            await self._close(environment)

    async def _turn(self, environment: Environment, before: StepResult, table: Table) -> StepResult:
        """Let the policy answer ``before``, and give what the environment says to that."""
        name = before.next_agent
        if name not in self.conversations:
            known = ", ".join(self.conversations)
            raise ValueError(f"next_agent is {name!r}, and the environment's agents are {known}")
        conversation = self.conversations[name]
        conversation.hear(before.messages)
        limit, reason = table.room(conversation, self.counts["turns"])
        if reason == StopReason.CONTEXT_OVERFLOW and not conversation.turns:
            length, hint = len(conversation.tokens), "shorten or filter the prompts"
            problem = (
                f"the prompt of task {self.task.id!r} has {length} tokens, and the model a context of {table.context}"
            )
            raise DataError(problem, hint=hint)
        if reason is not None:
            conversation.unhear()
            return StepResult(truncated=True, stop_reason=reason)
        seed = (self.turn_seed + self.counts["turns"] * _GOLDEN) % 2**62
        said = conversation.say(*await table.desk.ask(self.row, conversation.tokens, seed, limit))
        said = attrs.evolve(said, name=name) if len(self.conversations) > 1 else said
        self.counts["turns"] += 1
        result = await within(table.step_timeout, "step", environment.step(said))
        self._credit(conversation, result)
        return result

    def _credit(self, conversation: Conversation, result: StepResult) -> None:
        conversation.rewards[-1] += float(result.reward)
        for name, value in result.reward_components.items():
            self.components[name] += float(value)
        for name, value in result.info.get("rewards", {}).items():  # what a turn brings to the other agents
            if self.conversations[name].rewards:
                self.conversations[name].rewards[-1] += float(value)
        self.counts["tool_calls"] += sum(message.role == "tool" for message in result.messages)

    def _end(self, result: StepResult) -> None:
        default = StopReason.COMPLETED if result.terminated else StopReason.MAX_TURNS
        self.stop_reason, self.is_truncated = result.stop_reason or default, result.truncated
        self.status, self.reason = RewardStatus.OK, ""

    async def _close(self, environment: Environment) -> None:
        """Ask the environment to give back what it holds; one that does not must not cost the episode its result."""
        try:
            await within(CLOSING_SECONDS, "close", environment.close())
        except Exception:
            self.counts["close_failures"] += 1


@attrs.frozen(eq=False)
class Table:
    """What the episodes of a batch share."""

    desk: Desk
    open: Callable[[Environment], Conversation]
    settings: EpisodeSettings
    step_timeout: float
    turn_tokens: int  # most tokens of one turn
    context: int | None  # of the model

    def room(self, conversation: Conversation, turns: int) -> tuple[int, StopReason | None]:
        """How many tokens the next turn may have; or why there is no next turn."""
        sampled = len(conversation.logprobs)
        left = self.turn_tokens if self.settings.max_tokens is None else self.settings.max_tokens - sampled
        space = left if self.context is None else self.context - len(conversation.tokens)
        if turns >= self.settings.max_turns:
            return 0, StopReason.MAX_TURNS
        if left <= 0:
            return 0, StopReason.MAX_TOKENS
        if space <= 0:
            return 0, StopReason.CONTEXT_OVERFLOW
        return min(left, self.turn_tokens, space), None
