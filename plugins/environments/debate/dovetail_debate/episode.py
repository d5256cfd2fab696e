"""One debate, argument by argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dovetail import DataError, Message, StepResult, StopReason, Task, ToolSpec
from dovetail_debate.judges import Judge, Speech
from dovetail_debate.motions import SIDES
from dovetail_debate.rules import score_argument

if TYPE_CHECKING:
    from dovetail_debate import Debate
    from dovetail_debate.opponents import Opponent

_OTHER = dict(zip(SIDES, reversed(SIDES), strict=True))
_BRIEF = """You take part in a debate. The motion: {topic}.
You argue {side} it, in {rounds} {turns}. Give reasons and evidence, answer what the other side says, and be brief."""


class DebateEpisode:
    """The agents are ``for`` and ``against``; against an opponent there is one, ``agent``, with a side by its task."""

    tools: Sequence[ToolSpec] = ()

    def __init__(self, options: Debate, judge: Judge, opponent: Opponent | None) -> None:
        self._options, self._judge, self._opponent = options, judge, opponent
        self.agents: Sequence[str] = ("agent",) if opponent is not None else SIDES
        self._over = True

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin; without a task the seed chooses one of the train split."""
        if task is None:
            tasks = self._options.tasks("train")
            task = tasks[seed % len(tasks)]
        word = "first" if self._opponent is None else "position"
        if task.columns.get(word) not in SIDES or "topic" not in task.columns:
            raise DataError(f"the task {task.id!r} needs the columns 'topic', and {word!r}: 'for' or 'against'")
        self._topic, self._seed = str(task.columns["topic"]), seed
        self._speeches: list[Speech] = []
        self._briefed: set[str] = set()
        self._over = False
        chosen = str(task.columns[word])
        # Against an opponent the side that argues for the motion begins; two trained sides take turns in it by task.
        self._trained = SIDES if self._opponent is None else (chosen,)
        self._speaker = chosen if self._opponent is None else SIDES[0]
        await self._hear_opponent()
        return self._result()

    async def step(self, action: Message) -> StepResult:
        """Take an argument of the side whose turn it is.

        Raises:
            RuntimeError: After the end or before reset, or when the judge gives no verdict.
        """
        if self._over:
            raise RuntimeError("step was called after the end of the debate, or before reset")
        side = self._speaker
        self._take(side, action.content)
        spoken = self._speeches[-1]
        await self._hear_opponent()
        share, options = self._options.turn_weight, self._options
        rewards = dict.fromkeys(SIDES, 0.0)
        if self._is_over():
            self._over = True
            rewards = {name: (1 - share) * value for name, value in (await self._outcome()).items()}
        rewards[side] += share * spoken.scores.total / options.rounds
        return self._result(rewards, spoken)

    async def close(self) -> None:
        """Nothing to give back."""
        self._over = True

    def _take(self, side: str, text: str) -> None:
        own = [speech.text for speech in self._speeches if speech.side == side]
        theirs = [speech.text for speech in self._speeches if speech.side != side]
        scores = score_argument(
            text,
            self._topic,
            against=theirs[-1] if theirs else "",
            before=own,
            weights=self._options.weights,
            most_words=self._options.most_words,
        )
        self._speeches.append(Speech(side, text, scores))
        self._speaker = _OTHER[side]

    async def _hear_opponent(self) -> None:
        """Let the opponent speak if it is its turn."""
        if self._opponent is not None and self._speaker not in self._trained and not self._is_over():
            side = self._speaker
            turn = sum(speech.side == side for speech in self._speeches)
            self._take(side, await self._opponent.argue(self._transcript(side), side, turn, self._seed))

    def _transcript(self, side: str) -> list[Message]:
        """The debate as one side has heard it."""
        said = [Message("assistant" if s.side == side else "user", s.text) for s in self._speeches]
        return [Message("user", self._brief(side)), *said]

    def _is_over(self) -> bool:
        return len(self._speeches) >= 2 * self._options.rounds

    async def _outcome(self) -> dict[str, float]:
        scores = await self._judge.judge(self._topic, self._speeches)
        if self._options.rewards == "judged":
            return dict(scores)
        margin = scores["for"] - scores["against"]
        if self._options.rewards == "win":
            margin = float((margin > 0) - (margin < 0))
        return {"for": margin, "against": -margin}

    def _brief(self, side: str) -> str:
        turns = "turn" if self._options.rounds == 1 else "turns"
        return _BRIEF.format(topic=self._topic, side=side, rounds=self._options.rounds, turns=turns)

    def _next_messages(self) -> tuple[Message, ...]:
        """For the side that speaks next: its brief before its first turn, and what the other side has just said."""
        parts = [] if self._speaker in self._briefed else [self._brief(self._speaker)]
        self._briefed.add(self._speaker)
        if self._speeches:
            parts.append(f"The other side says:\n{self._speeches[-1].text}")
        return (Message("user", "\n\n".join(parts)),)

    def _result(self, rewards: dict[str, float] | None = None, spoken: Speech | None = None) -> StepResult:
        told: dict[str, Any] = {}
        if spoken is not None and rewards is not None:
            rounds, other = self._options.rounds, _OTHER[spoken.side]
            # Divided by the turns, so that their sum over the debate is the mean.
            parts = {name: value / rounds for name, value in attrs.asdict(spoken.scores).items()}
            info: dict[str, Any] = {"side": spoken.side, "scores": attrs.asdict(spoken.scores)}
            if self._opponent is None and self._over:
                info["rewards"] = {other: rewards[other]}
            told = {"reward": rewards[spoken.side], "reward_components": parts, "info": info}
        if self._over:
            return StepResult(terminated=True, stop_reason=StopReason.COMPLETED, **told)
        speaker = self._speaker if self._opponent is None else "agent"
        return StepResult(self._next_messages(), next_agent=speaker, **told)
