"""Who argues against the agent when only one side is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from dovetail import Message
from dovetail_debate.motions import SIDES

if TYPE_CHECKING:
    from dovetail_chat import Voice


class Opponent(Protocol):
    """Argues one side."""

    async def argue(self, messages: Sequence[Message], side: str, turn: int, seed: int) -> str:
        """The next argument of ``side`` after ``messages``; ``turn`` counts its own from 0."""


def opponent_of(words: Mapping[str, Any] | None) -> Opponent | None:
    """As the option says; a ValueError tells what is wrong."""
    if words is None:
        return None
    if set(words) == {"texts"}:
        texts = words["texts"]
        if not isinstance(texts, Mapping) or set(texts) != set(SIDES) or not all(map(len, texts.values())):
            raise ValueError("an opponent's texts are {for: [text, …], against: [text, …]}")
        return Reader({side: tuple(texts[side]) for side in SIDES})
    if "texts" not in words:
        from dovetail_chat import voice_of

        return Speaker(voice_of({"temperature": 1.0, "max_tokens": 256, **words}))
    raise ValueError("an opponent reads {texts: {for: […], against: […]}}, or speaks: {agent: {model: …}} or {url: …}")


@attrs.frozen
class Reader:
    """Reads fixed texts, one after the other, again from the first."""

    texts: Mapping[str, tuple[str, ...]]

    async def argue(self, messages: Sequence[Message], side: str, turn: int, seed: int) -> str:
        return self.texts[side][turn % len(self.texts[side])]


@attrs.frozen
class Speaker:
    """A language model; one that fails makes the debate invalid."""

    voice: Voice

    async def argue(self, messages: Sequence[Message], side: str, turn: int, seed: int) -> str:
        from dovetail_chat import Failed

        try:
            return await self.voice.answer(messages, (seed * 1009 + turn) % 2**62)
        except Failed as failure:
            raise RuntimeError(f"the opponent gave no argument: {failure}") from failure
