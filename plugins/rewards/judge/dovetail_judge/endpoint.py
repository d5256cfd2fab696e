"""A judge behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from dovetail_judge.desk import Failed

if TYPE_CHECKING:
    from dovetail_judge import Judge

_LONGEST_PAUSE = 30.0


class Endpoint:
    """Asks ``POST <url>/chat/completions``; a request that may succeed later is sent again until the deadline."""

    def __init__(self, options: Judge) -> None:
        self._options = options
        self.identity = {
            "url": options.url,
            "model": options.model,
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
        }

    async def ask(self, prompts: Sequence[str], tell: Callable[[int, str | Failed], None]) -> None:
        """Ask all, ``in_flight`` at a time."""
        options = self._options
        key = os.environ.get(options.key_variable)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=options.in_flight, max_keepalive_connections=options.in_flight)
        places = asyncio.Semaphore(options.in_flight)

        async with httpx.AsyncClient(headers=headers, timeout=options.timeout, limits=limits) as client:

            async def one(number: int, prompt: str) -> None:
                try:
                    async with asyncio.timeout(options.deadline), places:
                        tell(number, await self._judgement(client, prompt))
                except TimeoutError:
                    tell(number, Failed(f"the judge gave no answer within {options.deadline:g} s"))
                except Failed as failure:
                    tell(number, failure)

            await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))

    async def _judgement(self, client: httpx.AsyncClient, prompt: str) -> str:
        pause = 0.5
        for attempt in range(self._options.retries + 1):
            started = time.monotonic()
            try:
                response = await client.post(
                    f"{str(self._options.url).rstrip('/')}/chat/completions", json=self._body(prompt)
                )
            except httpx.HTTPError as error:
                problem, asked_pause = f"{type(error).__name__}: {error}".rstrip(": "), None
                if isinstance(error, httpx.TimeoutException):
                    problem = f"no answer within {time.monotonic() - started:.1f} s"
            else:
                if response.is_success:
                    return _content(response)
                problem, asked_pause = _problem(response), _retry_after(response)
                if response.status_code != 429 and response.status_code < 500:
                    raise Failed(f"the judge refuses: {problem}")
            if attempt < self._options.retries:
                await asyncio.sleep(asked_pause if asked_pause is not None else pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise Failed(f"the judge failed {self._options.retries + 1} times, at last: {problem}")

    def _body(self, prompt: str) -> dict[str, Any]:
        return {
            "model": self._options.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._options.temperature,
            "max_tokens": self._options.max_tokens,
        }


def _content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise Failed(f"the judge's reply is no chat completion: {response.text[:80]!r}") from None
    if not isinstance(content, str):
        raise Failed(f"the judge's reply has no text, but {content!r:.60}")
    return content


def _problem(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}: {response.text[:120]!r}"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks for; a date, which is rare, counts as not given."""
    try:
        return min(max(0.0, float(response.headers.get("retry-after", ""))), _LONGEST_PAUSE)
    except ValueError:
        return None
