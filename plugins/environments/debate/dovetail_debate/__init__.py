"""Two sides argue about a motion, and a judge scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs.validators import and_, ge, in_, le

from dovetail import Environment, Task, hookimpl
from dovetail_debate.rules import Weights


@attrs.frozen(eq=False)
class Debate:
    """Rewards come with the last turn: zero-sum, or what the judge gave each side.

    With s the judge's score of a side in [0, 1]: ``margin`` is s - s of the other side, ``win`` its sign, ``judged``
    is s. Each motion gives two tasks, in which the positions (or, with two trained sides, who begins) are swapped.

    Args:
        path: A JSONL file with a ``topic`` in each line. Null takes a few motions that come along.
        held_out: Share of the motions, chosen by a hash of their text, that is the test split.
        rounds: Turns of each side. Usual range 1 to 4.
        opponent: Null trains both sides (agents ``for`` and ``against``). ``{texts: {for: […], against: […]}}`` argues
            with fixed texts in turn; ``{agent: {model: …}}`` with a local ``dt.Agent`` that is not trained, ``{url: …,
            model: …}`` with one behind an endpoint; the words are those of dovetail-chat.
        rewards: ``margin`` and ``win`` add up to 0 over the two sides, ``judged`` does not.
        judge: Null is the rule-based judge. Else a reward part such as ``{use: judge, url: …, model: …, mode:
            pairwise}``, which is given both sides' arguments as two answers of one group.
        turn_weight: Share of the reward that is the rule-based judge's score of the turn itself, paid with it.
        weights: Of the rule-based judge's five scores.
        most_words: Of one argument; more cost brevity. Usual range 80 to 400.
    """

    traits = ("multi_turn",)

    path: str | None = None
    held_out: float = attrs.field(default=0.25, validator=and_(ge(0), le(1)))
    rounds: int = attrs.field(default=2, validator=and_(ge(1), le(20)))
    opponent: Mapping[str, Any] | None = None
    rewards: Literal["margin", "win", "judged"] = attrs.field(
        default="margin", validator=in_(["margin", "win", "judged"])
    )
    judge: Mapping[str, Any] | None = None
    turn_weight: float = attrs.field(default=0.0, validator=and_(ge(0), le(1)))
    weights: Weights = attrs.field(factory=Weights)
    most_words: int = attrs.field(default=250, validator=ge(10))
    _judge: Any = attrs.field(init=False, repr=False)
    _opponent: Any = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        from dovetail_debate.judges import judge_of
        from dovetail_debate.opponents import opponent_of

        object.__setattr__(self, "_judge", judge_of(self))
        object.__setattr__(self, "_opponent", opponent_of(self.opponent))

    @hookimpl
    def tasks(self, split: str) -> Sequence[Task]:
        """Each motion of a split twice, with the positions swapped.

        Raises:
            DataError: The file is missing, empty or broken.
        """
        from dovetail_debate.motions import tasks_of

        return tasks_of(self.path, split, self.held_out, both=self.opponent is None)

    @hookimpl
    async def make(self) -> Environment:
        """A debate."""
        from dovetail_debate.episode import DebateEpisode

        return DebateEpisode(self, self._judge, self._opponent)
