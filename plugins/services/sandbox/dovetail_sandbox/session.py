"""A confined Python that keeps its names between pieces of code, for a tool that an agent uses."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor

import attrs

from dovetail_sandbox.results import Limits, Result, Status, cut
from dovetail_sandbox.server import Run, SandboxFailure, finish

_LIFETIME = 86_400.0  # seconds; whoever forgets to close it loses it then
_GONE = "; its names are gone"


class Session:
    """Made by :meth:`Sandbox.session`. One piece of code at a time; it starts with the first one."""

    def __init__(self, start: Callable[[Limits, int], Run], threads: Executor, limits: Limits) -> None:
        self._start, self._threads, self._limits = start, threads, limits
        self._run: Run | None = None
        self._channel: socket.socket | None = None
        self._lock = threading.Lock()

    def execute(self, code: str) -> Result:
        """Run a piece of code; the value of a last expression is shown on standard output.

        ``timeout``, ``output_limit``, and a process that died, cost the names; the next piece begins anew.
        """
        with self._lock:
            try:
                run, channel = self._running()
                return self._executed(run, channel, code)
            except (OSError, SandboxFailure) as error:
                self._drop()
                return Result(Status.SANDBOX_ERROR, f"{type(error).__name__}: {error}{_GONE}")

    async def execute_async(self, code: str) -> Result:
        """As :meth:`execute`, for coroutines."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._threads, self.execute, code)

    def _running(self) -> tuple[Run, socket.socket]:
        if self._run is None or self._channel is None:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    self._run = self._start(attrs.evolve(self._limits, seconds=_LIFETIME), theirs.fileno())
                except BaseException:
                    ours.close()
                    raise
            self._channel = ours
        return self._run, self._channel

    def _executed(self, run: Run, channel: socket.socket, code: str) -> Result:
        started = time.monotonic()
        for pieces in run.pieces.values():
            pieces.clear()
        channel.settimeout(self._limits.seconds)
        try:
            channel.sendall(json.dumps({"code": code}).encode() + b"\n")
            reply = self._reply(run, channel, started + self._limits.seconds)
        except (BrokenPipeError, ConnectionResetError):
            reply = b""
        except TimeoutError:
            reply = None
        if not reply:
            return self._ended(run, is_late=reply is None)
        try:
            status = Status(json.loads(reply)["ended"])
        except (ValueError, KeyError, TypeError):
            self._drop()  # or its next words would be taken for an answer to the next piece
            return Result(Status.RUNTIME_ERROR, f"it wrote where only the session writes{_GONE}")
        stdout, stderr = (cut(pieces, self._limits.output) for pieces in run.pieces.values())
        return Result(status, stdout=stdout, stderr=stderr, seconds=time.monotonic() - started)

    def _reply(self, run: Run, channel: socket.socket, until: float) -> bytes | None:
        """The answer of the process; empty if it is gone or was killed, None if it is late."""
        reply = b""
        with selectors.DefaultSelector() as selector:
            for reader in (channel.fileno(), run.report.fileno(), *run.pieces):
                selector.register(reader, selectors.EVENT_READ)
            while (left := until - time.monotonic()) > 0:
                # What it wrote comes first: it was flushed before the answer.
                ready = [key.fd for key, _ in selector.select(0 if reply else left)]
                for reader in (reader for reader in ready if reader in run.pieces):
                    if not run.read(reader):
                        selector.unregister(reader)
                if run.is_too_long or run.report.fileno() in ready:
                    return b""
                if reply and not set(ready) & set(run.pieces):
                    return reply
                if channel.fileno() in ready and not reply:
                    reply = channel.recv(4096)
                    if not reply:
                        return b""
        return None

    def _ended(self, run: Run, is_late: bool) -> Result:
        if is_late:
            run.cancel()
        run.until = time.monotonic() + 5
        if self._channel:
            self._channel.close()
        self._run = self._channel = None
        ((result, _),) = finish(run)
        if result.status == Status.OK:  # it ended by itself, with exit code 0
            result = attrs.evolve(result, status=Status.RUNTIME_ERROR, reason="it ended")
        return attrs.evolve(result, reason=result.reason + _GONE)

    def _drop(self) -> None:
        if self._channel:
            self._channel.close()
        if self._run:
            self._run.cancel()
            self._run.until = time.monotonic() + 5
            finish(self._run)
        self._run = self._channel = None

    def close(self) -> None:
        """End the process, and the piece of code that runs. May be called twice, and the session used again."""
        if run := self._run:
            run.cancel()
        with self._lock:
            self._drop()
