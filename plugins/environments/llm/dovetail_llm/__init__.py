"""A language model as the environment: a user, a critic, a game master."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs.validators import and_, ge, gt, lt

from dovetail import Environment, Task, hookimpl

ROLE = """You play a user who talks to an assistant. Your situation, which the assistant does not know:
{scenario}
Write only what the user says next, in one or two sentences. Do not help the assistant. When your wish is fulfilled, or
it has become clear that it will not be, write {done} and nothing else."""
QUESTION = """The conversation is over. Leave your role. How well did the assistant serve the user?
Give your reasons in a sentence. Then end with one line of exactly this form, from 0 (not at all) to 10 (fully):
Score: <number>"""


@attrs.frozen(eq=False)
class LanguageModel:
    """The model speaks in its role after each turn; at the end it is asked for a score, which is the reward in [0, 1].

    A model that fails, or a score that cannot be read, raises: the sample is invalid, never 0.

    Args:
        voice: Who plays, in the words of dovetail-chat: ``{url: …, model: …}`` or ``{agent: {model: …}}``, with
            ``temperature``, ``max_tokens``, ….
        path: A JSONL file whose lines have an ``opening``, which is the first thing that the policy hears, and a
            ``scenario``, which only the model knows; an ``answer`` and other columns are for rewards.
        role: The model's instructions, with ``{scenario}`` and ``{done}``.
        brief: A system message for the policy; null gives none.
        question: What the model is asked at the end; its last ``Score: <number>`` counts. Null asks nothing: the
            reward is 0, and the run's own rewards decide.
        best: The best score of the question's scale, which begins at 0.
        done: What the model writes to end the episode.
        max_turns: Of the policy; then the episode is truncated, and scored. Usual range 2 to 20.
        held_out: Share of the lines, chosen by a hash of opening and scenario, that is the test split.
        seed: Of the model's answers, with the seed of the episode.
    """

    traits = ("multi_turn",)

    voice: Mapping[str, Any]
    path: str
    role: str = ROLE
    brief: str | None = None
    question: str | None = QUESTION
    best: float = attrs.field(default=10.0, validator=gt(0))
    done: str = attrs.field(default="[DONE]", validator=attrs.validators.min_len(1))
    max_turns: int = attrs.field(default=8, validator=ge(1))
    held_out: float = attrs.field(default=0.125, validator=and_(ge(0), lt(1)))
    seed: int = 0
    _voice: Any = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        from dovetail_chat import voice_of

        if "{scenario}" not in self.role:
            raise ValueError("role must hold {scenario}")
        object.__setattr__(self, "_voice", voice_of({"temperature": 1.0, **self.voice}))

    @hookimpl
    def tasks(self, split: str) -> Sequence[Task]:
        """One for each line of the file.

        Raises:
            DataError: The file is missing, empty or broken.
        """
        from dovetail_llm.scenarios import tasks_of

        return tasks_of(self.path, split, self.held_out, self.brief)

    @hookimpl
    async def make(self) -> Environment:
        """A conversation."""
        from dovetail_llm.episode import LanguageModelEpisode

        return LanguageModelEpisode(self, self._voice)
