"""What all voices share: their settings, what they promise, how they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from attrs.validators import ge, gt

from dovetail.messages import Message
from dovetail.parts import check_options


class Failed(Exception):
    """A voice that gave no answer; the message is the reason."""


@attrs.frozen
class VoiceSettings:
    """Which model speaks, and how long one waits for it.

    Args:
        url: Base of an OpenAI-compatible endpoint, such as ``http://localhost:8000/v1``; with ``model``.
        model: The model's name there.
        agent: Instead of them, the options of a local ``dt.Agent``, such as ``{model: Qwen/Qwen2.5-7B-Instruct}``; it
            answers through any generator part.
        max_tokens: Of an answer.
        temperature: Of the sampling; 0 takes the likeliest token.
        key_variable: The environment variable that holds the endpoint's key, if it needs one.
        timeout: Seconds for one request.
        deadline: Seconds for one answer, with its retries and its wait for a place.
        retries: How often a request is sent again after a connection error, a 429 or a 5xx; the pauses double, and
            follow ``Retry-After``.
        in_flight: Requests at a time.
    """

    url: str | None = None
    model: str | None = None
    agent: Mapping[str, Any] | None = None
    max_tokens: int = attrs.field(default=512, validator=ge(1))
    temperature: float = attrs.field(default=0.0, validator=ge(0))
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = attrs.field(default=30.0, validator=gt(0))
    deadline: float = attrs.field(default=50.0, validator=gt(0))
    retries: int = attrs.field(default=4, validator=ge(0))
    in_flight: int = attrs.field(default=32, validator=ge(1))

    def __attrs_post_init__(self) -> None:
        if (self.url is None) == (self.agent is None):
            raise ValueError("give either url and model, or agent")
        if (self.url is None) != (self.model is None):
            raise ValueError("url and model belong together")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")

    def identity(self) -> dict[str, Any]:
        """What an answer depends on, besides the conversation and the seed."""
        speaker = {str(name): str(value) for name, value in (self.agent or {}).items()}
        return {"url": self.url, "model": self.model, "agent": speaker} | {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }


class Voice:
    """A model that answers conversations. Both kinds keep the promise of :meth:`ask`."""

    def __init__(self, settings: VoiceSettings) -> None:
        self.settings = settings

    async def ask(
        self,
        conversations: Sequence[Sequence[Message]],
        tell: Callable[[int, str | Failed], None],
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Answer all conversations.

        Args:
            conversations: Each ends with what is to be answered.
            tell: Is called with the number of a conversation and its answer, or why there is none, as soon as it is
                known.
            seeds: One for each; an endpoint may not keep to them. Without them every one is 0.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement ask()")

    async def answer(self, conversation: Sequence[Message], seed: int = 0) -> str:
        """Answer one conversation; Failed tells why there is no answer."""
        answered: asyncio.Future[str | Failed] = asyncio.get_running_loop().create_future()
        await self.ask([conversation], lambda _, answer: answered.set_result(answer), [seed])
        answer = answered.result()
        if isinstance(answer, Failed):
            raise answer
        return answer


def voice_of(words: Mapping[str, Any]) -> Voice:
    """The voice that the words of :class:`VoiceSettings` describe; a ValueError tells what does not fit."""
    mistakes, options = check_options(VoiceSettings, words)
    if mistakes:
        raise ValueError("; ".join(text for _, text in mistakes))
    settings = VoiceSettings(**options)
    if settings.url is not None:
        from dovetail_chat.endpoint import Endpoint

        return Endpoint(settings)
    from dovetail_chat.local import LocalAgent

    return LocalAgent(settings)
