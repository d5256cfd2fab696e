"""Worker processes for math-verify: bounded in time from outside and in memory from inside."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import queue
import select
import subprocess
import sys
import time

_START_SECONDS = 60.0


class Worker:
    """One process. It answers one question at a time and is killed when it takes too long."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dovetail_math.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self._read(_START_SECONDS) != {"ready": True}:
            self.kill()
            raise RuntimeError("the math-verify worker did not start; is math-verify installed?")

    def ask(self, gold: str, answer: str, timeout: float) -> bool | None:
        """Whether the two are equal; None if no answer came in time, and then the process is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"gold": gold, "answer": answer}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        reply = self._read(timeout)
        return None if reply is None else bool(reply.get("equal"))

    def _read(self, timeout: float) -> dict[str, bool] | None:
        assert self._process.stdout is not None
        deadline, received = time.monotonic() + timeout, b""
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self._process.stdout.read1(65536) if ready else b""  # type: ignore[attr-defined]
            if not chunk:
                return None
            received += chunk
        return json.loads(received)  # type: ignore[no-any-return]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # Closing flushes, and the reader of what is left is gone.
            with contextlib.suppress(OSError):
                pipe.close()


class Pool:
    """Workers that are started when first needed and replaced when killed."""

    def __init__(self, size: int) -> None:
        self._free: queue.Queue[Worker | None] = queue.Queue()
        for _ in range(size):
            self._free.put(None)
        self._cached = functools.lru_cache(maxsize=10_000)(self._equal)
        atexit.register(self.close)

    def equal(self, gold: str, answer: str, timeout: float) -> bool:
        """Whether the two are equal; an answer that costs more than ``timeout`` seconds is not.

        Raises:
            RuntimeError: No worker could be started.
        """
        return self._cached(gold, answer, timeout)

    def _equal(self, gold: str, answer: str, timeout: float) -> bool:
        worker = self._free.get()
        try:
            worker = worker or Worker()
            result = worker.ask(gold, answer, timeout)
            if result is None:
                worker.kill()
                worker = None
            return bool(result)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Kill the workers that are idle."""
        for _ in range(self._free.qsize()):
            worker = self._free.get()
            if worker is not None:
                worker.kill()
            self._free.put(None)


@functools.cache
def shared_pool(size: int) -> Pool:
    """One pool for each size in a process, whatever the number of environments."""
    return Pool(size)
