"""Who decides: the rules, or a reward part that is given both sides as two answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from dovetail import Invalid, Message, Task, Tasks
from dovetail_debate.motions import SIDES

if TYPE_CHECKING:
    from dovetail_debate import Debate
    from dovetail_debate.rules import ArgumentScores


@attrs.frozen
class Speech:
    """An argument as it was given, with the rules' scores of it."""

    side: str
    text: str
    scores: ArgumentScores


class NoVerdict(RuntimeError):
    """The judge could not judge; the debate's samples become invalid."""


class Judge(Protocol):
    """Scores a debate."""

    async def judge(self, topic: str, speeches: Sequence[Speech]) -> Mapping[str, float]:
        """The score of each side, in [0, 1]; NoVerdict if there is none."""


def judge_of(options: Debate) -> Judge:
    """As the option says; a ValueError or UserError tells what is wrong."""
    if options.judge is None:
        return RuleJudge()
    words = dict(options.judge)
    if not isinstance(use := words.pop("use", None), str):
        raise ValueError("a judge is a reward part: {use: judge, url: …, model: …}")
    from dovetail.registry import registry

    return RewardJudge(registry("rewards")[use](**words))


class RuleJudge:
    """The mean of the rules' totals of a side's arguments."""

    async def judge(self, topic: str, speeches: Sequence[Speech]) -> Mapping[str, float]:
        totals = {side: [speech.scores.total for speech in speeches if speech.side == side] for side in SIDES}
        return {side: sum(found) / len(found) if found else 0.0 for side, found in totals.items()}


@attrs.frozen(eq=False)
class RewardJudge:
    """A reward part, such as a language model's judgement; the sides are two answers to one task, of one group."""

    part: Any

    async def judge(self, topic: str, speeches: Sequence[Speech]) -> Mapping[str, float]:
        import torch

        task = Task("debate", (Message("user", f"Argue about the motion: {topic}"),))
        texts = ["\n\n".join(speech.text for speech in speeches if speech.side == side) for side in SIDES]
        known = {
            "texts": texts,
            "messages": [(*task.messages, Message("assistant", text)) for text in texts],
            "tasks": Tasks([task] * len(SIDES)),
            "groups": torch.zeros(len(SIDES), dtype=torch.int64),
        }
        asked = self.part.asks_for("score")
        if lacking := sorted(set(asked) - set(known)):
            raise NoVerdict(
                f"the reward {self.part.name!r} asks for {', '.join(lacking)}, which a debate does not have"
            )
        scores = self.part.instance.score(**{name: known[name] for name in asked})
        scores = await scores if inspect.isawaitable(scores) else scores
        for side, score in zip(SIDES, scores, strict=True):
            if isinstance(score, Invalid):
                raise NoVerdict(f"no judgement of the side {side!r}: {score.reason}")
        return {side: float(score) for side, score in zip(SIDES, scores, strict=True)}
