"""A model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from dovetail.messages import Message
from dovetail_chat.voice import Failed, Voice, VoiceSettings

_LONGEST_PAUSE = 30.0


class Endpoint(Voice):
    """Asks ``POST <url>/chat/completions``; a request that may succeed later is sent again until the deadline."""

    def __init__(self, settings: VoiceSettings) -> None:
        super().__init__(settings)
        # Of a loop, so that episodes that ask one by one share them.
        self._places: WeakKeyDictionary[Any, asyncio.Semaphore] = WeakKeyDictionary()

    async def ask(
        self,
        conversations: Sequence[Sequence[Message]],
        tell: Callable[[int, str | Failed], None],
        seeds: Sequence[int] | None = None,
    ) -> None:
        settings = self.settings
        key = os.environ.get(settings.key_variable)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=settings.in_flight, max_keepalive_connections=settings.in_flight)
        places = self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(settings.in_flight))

        client = httpx.AsyncClient(headers=headers, timeout=settings.timeout, limits=limits, verify=self._certificates)
        async with client:

            async def one(number: int) -> None:
                body = self._body(conversations[number], seeds[number] if seeds else None)
                try:
                    async with asyncio.timeout(settings.deadline), places:
                        answer: str | Failed = await self._answer(client, body)
                except TimeoutError:
                    answer = Failed(f"{settings.model} gave no answer within {settings.deadline:g} s")
                except Failed as failure:
                    answer = failure
                tell(number, answer)

            await asyncio.gather(*map(one, range(len(conversations))))

    @functools.cached_property
    def _certificates(self) -> ssl.SSLContext:
        # Reading them takes longer than a request; a client that makes its own does so each time.
        return httpx.create_ssl_context()

    async def _answer(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        model, retries, pause, problem = self.settings.model, self.settings.retries, 0.5, ""
        for attempt in range(retries + 1):
            asked_pause = None
            try:
                response = await client.post(f"{str(self.settings.url).rstrip('/')}/chat/completions", json=body)
            except httpx.TimeoutException:
                problem = f"no reply within {self.settings.timeout:g} s"
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if response.is_success:
                    return _content(response)
                problem, asked_pause = _problem(response), _retry_after(response)
                if response.status_code != 429 and response.status_code < 500:
                    raise Failed(f"{model} refuses: {problem}")
            if attempt < retries:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0) if asked_pause is None else asked_pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise Failed(f"{model} failed {retries + 1} times, at last: {problem}")

    def _body(self, conversation: Sequence[Message], seed: int | None) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "messages": [message.to_chat() for message in conversation],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            **({} if seed is None else {"seed": seed}),
        }


def _content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise Failed(f"the reply is no chat completion: {response.text[:80]!r}") from None
    if not isinstance(content, str):
        raise Failed(f"the reply has no text, but {content!r:.60}")
    return content


def _problem(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}: {response.text[:120]!r}"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks for; a date, which is rare, counts as not given."""
    try:
        return min(max(0.0, float(response.headers.get("retry-after", ""))), _LONGEST_PAUSE)
    except ValueError:
        return None
