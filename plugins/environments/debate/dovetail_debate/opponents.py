"""Who argues against the agent when only one side is trained."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from dovetail import Message
from dovetail_debate.motions import SIDES


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
    if "agent" in words and set(words) <= {"agent", "max_tokens", "temperature"}:
        return Sampler(**words)
    raise ValueError("an opponent is {texts: {for: […], against: […]}} or {agent: {model: …}, max_tokens: …}")


@attrs.frozen
class Reader:
    """Reads fixed texts, one after the other, again from the first."""

    texts: Mapping[str, tuple[str, ...]]

    async def argue(self, messages: Sequence[Message], side: str, turn: int, seed: int) -> str:
        return self.texts[side][turn % len(self.texts[side])]


@attrs.define(eq=False)
class Sampler:
    """Samples from a local agent, in a thread, one argument at a time."""

    agent: Mapping[str, Any]
    max_tokens: int = 256
    temperature: float = 1.0
    _loaded: Any = attrs.field(default=None, init=False)
    _lock: Any = attrs.field(factory=threading.Lock, init=False)

    async def argue(self, messages: Sequence[Message], side: str, turn: int, seed: int) -> str:
        return await asyncio.to_thread(self._sample, tuple(messages), seed * 1009 + turn)

    def _sample(self, messages: tuple[Message, ...], seed: int) -> str:
        import torch

        import dovetail as dt

        with self._lock:
            if self._loaded is None:
                options = dict(self.agent)
                if "tiny" in options:
                    self._loaded = dt.Agent.tiny(**(options.pop("tiny") or {}), **options)
                else:
                    self._loaded = dt.Agent(options.pop("model"), **options)
            sampling = dt.Sampling(max_tokens=self.max_tokens, temperature=self.temperature)
            prompts = self._loaded.encode([dt.Task("opponent", messages)])
            generated = self._loaded.generate(prompts, 1, sampling, torch.tensor([seed % 2**62]))
            return str(self._loaded.decode(generated.completions.tolist()[0]))
