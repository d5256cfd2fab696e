"""The sessions of a server: one environment each, a lease that ends with silence, and calls that run once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from dovetail import Environment

_log = structlog.get_logger()
_CLOSE_SECONDS = 30.0


class Refusal(Exception):
    """A call that cannot be served; ``code`` is the name of a gRPC status, ``reason`` is for the client's program."""

    def __init__(self, code: str, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.code, self.reason = code, reason


class Session:
    """One environment and the last call made to it."""

    def __init__(self, making: asyncio.Task[Environment]) -> None:
        self.making = making
        self.turn = 0
        self.seen = time.monotonic()
        self._running: asyncio.Task[Any] | None = None

    async def once(self, turn: int, call: Callable[[Environment, Any], Awaitable[Any]], request: Any) -> Any:
        """The outcome of a turn: run if it is the next, given again or awaited if it is the one of last.

        The caller may go away: the call runs on, so that a retry over a new connection finds its outcome.
        """
        self.seen = time.monotonic()
        if turn == self.turn + 1:
            if self._running is not None and not self._running.done():
                raise Refusal("FAILED_PRECONDITION", f"turn {turn} was sent while turn {self.turn} is running")
            self.turn = turn
            self._running = asyncio.ensure_future(self._run(call, request))
        elif turn != self.turn or self._running is None:
            raise Refusal("FAILED_PRECONDITION", f"turn {turn} was sent, and turn {self.turn + 1} is next")
        try:
            return await asyncio.shield(self._running)
        finally:
            self.seen = time.monotonic()

    async def _run(self, call: Callable[[Environment, Any], Awaitable[Any]], request: Any) -> Any:
        return await call(await asyncio.shield(self.making), request)

    async def close(self) -> None:
        """Stop what runs and close the environment; what it raises is logged, and what hangs is left behind."""
        tasks = [task for task in (self._running, self.making) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
        try:
            if self.making.done() and not self.making.cancelled() and self.making.exception() is None:
                await asyncio.wait_for(self.making.result().close(), _CLOSE_SECONDS)
        except Exception:
            _log.exception("an environment could not be closed")


class Sessions:
    """All sessions of a server, at most ``capacity``; one that hears nothing for ``lease`` seconds ends."""

    def __init__(self, capacity: int, lease: float) -> None:
        self.capacity, self.lease = capacity, lease
        self.draining = False
        self._sessions: dict[str, Session] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    async def open(self, name: str, make: Callable[[], Awaitable[Environment]]) -> Environment:
        """Make a session's environment; a repeated call gets the same one. If it cannot be made there is no session."""
        session = self._sessions.get(name)
        if session is None:
            self._admit(name)
            session = self._sessions[name] = Session(asyncio.ensure_future(make()))
        try:
            return await asyncio.shield(session.making)
        except Exception:
            self._sessions.pop(name, None)
            raise

    def _admit(self, name: str) -> None:
        if not 16 <= len(name) <= 64:
            raise Refusal("INVALID_ARGUMENT", "a session's name has 16 to 64 characters")
        if self.draining:
            raise Refusal("UNAVAILABLE", "the server is shutting down", "draining")
        # Those that are being closed still hold their processes and files.
        if len(self._sessions) + len(self._closing) >= self.capacity:
            raise Refusal("RESOURCE_EXHAUSTED", f"all {self.capacity} sessions are taken", "capacity")

    def get(self, name: str) -> Session:
        """A session that is open; a Refusal if there is none."""
        if name not in self._sessions:
            raise Refusal("NOT_FOUND", "no such session: it was closed, its lease has ended, or the server is another")
        return self._sessions[name]

    def touch(self, names: list[str]) -> list[str]:
        """Renew leases; the names that are unknown."""
        for name in names:
            if name in self._sessions:
                self._sessions[name].seen = time.monotonic()
        return [name for name in names if name not in self._sessions]

    def end(self, name: str) -> asyncio.Task[None] | None:
        """Begin to close a session; None if it is unknown, which means closed already."""
        session = self._sessions.pop(name, None)
        if session is None:
            return None
        closing = asyncio.ensure_future(session.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing

    async def watch(self) -> None:
        """End sessions whose client is silent, forever."""
        while True:
            await asyncio.sleep(self.lease / 4)
            silent = time.monotonic() - self.lease
            for name in [name for name, session in self._sessions.items() if session.seen < silent]:
                _log.warning("a session has ended: its client was silent", session=name[:8], lease=self.lease)
                self.end(name)

    async def drain(self, seconds: float) -> None:
        """Admit nobody any more; wait for the sessions to end, at most so long, then close those that are left."""
        self.draining = True
        until = time.monotonic() + seconds
        while len(self) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for name in list(self._sessions):
            self.end(name)
        if self._closing:
            await asyncio.wait(self._closing)
