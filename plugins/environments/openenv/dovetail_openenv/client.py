"""One connection to an OpenEnv server, which is one environment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import Any

_LARGEST = 16 << 20  # bytes of a message
_CLOSE_SECONDS = 2.0


class OpenEnvError(RuntimeError):
    """The server, or its environment, has failed; the sample is invalid."""


class Misunderstood(Exception):
    """The server does not take the action; the environment is as it was."""


class Connection:
    """Sends a message and waits for its answer.

    The protocol is that of openenv-core 0.2 and later: ``{"type": "reset" | "step" | "state" | "close", "data": …}``, answered
    by ``{"type": "observation" | "state" | "error", "data": …}``.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = f"ws{url.removeprefix('http').rstrip('/')}/ws"
        self._timeout = timeout
        self._socket: Any = None

    async def reset(self, data: dict[str, Any], wait: float) -> dict[str, Any]:
        """Connect, and begin an episode; a full server is asked again for ``wait`` seconds.

        Raises:
            OpenEnvError: It cannot be reached, has no place, or failed.
        """
        until, pause = time.monotonic() + wait, 0.05
        while True:
            await self._connect()
            answer = await self._exchange({"type": "reset", "data": data})
            if answer["type"] != "error":
                return self._observation(answer)
            if answer["data"].get("code") != "CAPACITY_REACHED" or time.monotonic() + pause > until:
                raise OpenEnvError(self._told(answer))
            await self.close()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # so that many that wait do not come back at once
            pause = min(2 * pause, 2.0)

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """What the environment says to an action.

        Raises:
            Misunderstood: The action does not fit its schema.
            OpenEnvError: The connection was lost, or the environment failed.
        """
        answer = await self._exchange({"type": "step", "data": action})
        if answer["type"] == "error" and answer["data"].get("code") == "VALIDATION_ERROR":
            raise Misunderstood(_mistakes(answer["data"]))
        return self._observation(answer)

    def _observation(self, answer: dict[str, Any]) -> dict[str, Any]:
        data = answer["data"]
        if answer["type"] != "observation" or not isinstance(data.get("observation"), dict):
            raise OpenEnvError(self._told(answer))
        return data

    async def _connect(self) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        await self.close()
        try:
            self._socket = await connect(
                self._url, open_timeout=self._timeout, close_timeout=_CLOSE_SECONDS, max_size=_LARGEST
            )
        except (OSError, WebSocketException) as error:
            raise OpenEnvError(f"{self._url} cannot be reached: {error or type(error).__name__}") from error

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        from websockets.exceptions import WebSocketException

        if self._socket is None:
            raise OpenEnvError("the episode has no connection")
        try:
            async with asyncio.timeout(self._timeout):
                # What the server says unasked, that it is full, may come before it has read what we say.
                with contextlib.suppress(WebSocketException):
                    await self._socket.send(json.dumps(message))
                answer = json.loads(await self._socket.recv())
        except TimeoutError:
            await self._drop()
            raise OpenEnvError(f"{self._url} gave no answer within {self._timeout:g} s") from None
        except (WebSocketException, OSError) as error:
            await self._drop()
            raise OpenEnvError(f"the connection to {self._url} was lost: {error}") from error
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict) or "type" not in answer:
            await self._drop()
            raise OpenEnvError(f"{self._url} has sent what is no message of OpenEnv")
        return answer

    def _told(self, answer: dict[str, Any]) -> str:
        data = answer["data"]
        return f"{self._url}: {data.get('code', answer['type'])}: {data.get('message', 'no observation')}"

    async def close(self) -> None:
        """Say goodbye, so that the server gives back the environment at once. May be called twice."""
        if self._socket is not None:
            with contextlib.suppress(Exception):  # it may be gone
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._socket.send('{"type": "close"}')
        await self._drop()

    async def _drop(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(Exception):
                await socket.close()


def _mistakes(data: dict[str, Any]) -> str:
    """Of pydantic, field by field."""
    errors = data.get("errors")
    found = [
        f"{'.'.join(map(str, each.get('loc', ()))) or 'action'}: {each.get('msg', 'does not fit')}"
        for each in (errors if isinstance(errors, list) else ())
        if isinstance(each, dict)
    ]
    return "; ".join(found) or str(data.get("message", "it does not fit"))
