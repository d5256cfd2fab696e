"""Any Gymnasium environment, played in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs.validators import ge, in_

from dovetail import Environment, Task, hookimpl

PROMPT = "{rules}\n\n{observation}\n\nActions: {actions}. End your answer with one of them."
RULES = "You play {id}. Each of your turns is one move."


@attrs.frozen
class Gym:
    """Rewards are the game's own. A text without an action costs a turn and is told what the actions are.

    A task is a start of the game: its seed goes to the game's reset. The seed of the episode decides the chances
    after that, so that the samples of a group begin alike and go on by themselves.

    Args:
        id: As in ``gymnasium.make``; ``module:Name-v0`` imports the module that registers it.
        kwargs: Of ``gymnasium.make``, such as ``{is_slippery: false}``.
        actions: A word for each action of a discrete space, in the order of its numbers; by default the numbers. Of
            a space of vectors the numbers stand in the text, separated by what is no number.
        pattern: A regular expression whose first group is the action; its last match counts. Null takes the last
            action that is named anywhere in the text.
        rules: What the policy is told at first; ``{id}`` is the game's name.
        prompt: The first message, with ``{rules}``, ``{observation}`` and ``{actions}``.
        turn_prompt: The messages after that, with ``{observation}`` and ``{actions}``.
        show: ``ansi`` is the game's own picture in letters, ``observation`` the observation as text, ``auto`` the
            first if the game has it.
        describe: Import path ``module:function`` of a function that makes the text, from the game and its observation.
        max_turns: The episode is truncated after so many; a limit of the game's own holds too. Usual range 10 to 200.
        penalty: Taken off the reward of a turn whose text holds no action. Usual range 0 to 1.
        on_invalid: After such a turn: ``again`` asks once more, ``end`` ends the episode.
        size: Tasks to train on, seeds 0 to size - 1.
        test_size: Seeds of the test split, which follow; starts that are in the train split are left out, unless the
            game has but one.
    """

    traits = ("multi_turn",)

    id: str
    kwargs: Mapping[str, Any] = attrs.field(factory=dict)
    actions: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    pattern: str | None = None
    rules: str = RULES
    prompt: str = PROMPT
    turn_prompt: str = "{observation}"
    show: Literal["auto", "ansi", "observation"] = attrs.field(
        default="auto", validator=in_(["auto", "ansi", "observation"])
    )
    describe: str | None = None
    max_turns: int = attrs.field(default=50, validator=ge(1))
    penalty: float = attrs.field(default=0.0, validator=ge(0))
    on_invalid: Literal["again", "end"] = attrs.field(default="again", validator=in_(["again", "end"]))
    size: int = attrs.field(default=256, validator=ge(1))
    test_size: int = attrs.field(default=64, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        from dovetail_gym.spaces import check_names

        check_names(self.actions)
        for name, text, words in (
            ("rules", self.rules, {"id"}),
            ("prompt", self.prompt, {"rules", "observation", "actions"}),
            ("turn_prompt", self.turn_prompt, {"observation", "actions"}),
        ):
            try:
                text.format_map(dict.fromkeys(words, ""))
            except (KeyError, ValueError, IndexError) as error:
                raise ValueError(
                    f"{name} may hold {', '.join(f'{{{word}}}' for word in sorted(words))}: {error!r}"
                ) from None
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
            if groups < 1:
                raise ValueError("pattern needs a group, which is the action")

    @hookimpl
    def tasks(self, split: str) -> Sequence[Task]:
        """One for each start; its message is the first prompt.

        Raises:
            UserError: The game cannot be made, or the options do not fit it.
        """
        from dovetail_gym.episode import starts

        return starts(self, split)

    @hookimpl
    async def make(self) -> Environment:
        """A game of its own."""
        import asyncio

        from dovetail_gym.episode import GymEpisode

        return await asyncio.to_thread(GymEpisode, self)
