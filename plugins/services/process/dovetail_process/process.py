"""One worker process seen from the run: starting, asking under a deadline, killing, and the word on its death."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

# Not multiprocessing's spawn, which runs the user's script once more unless its author has guarded it.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; from dovetail_process.child import main; main(*map(int, sys.argv[1:3]))"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_REAPING_SECONDS = 5.0


class Died(Exception):
    """The process is gone; the message says how: ``was killed by SIGSEGV``."""


class Process:
    """A fresh interpreter that makes the reward of an order, by itself, and then answers one message at a time."""

    def __init__(self, order: bytes) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            paths = [path for path in sys.path if isinstance(path, str)]
            command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *paths]
            self._child = _starter().submit(_start, command, theirs.fileno()).result()
        # On a descriptor of its own, so that the socket can be shut down while the connection is read.
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._expired = False
        self.is_ready = False  #: whether it has said that it has made the reward
        weakref.finalize(self, _kill, self._child)
        with contextlib.suppress(OSError):  # a process that is dead already is met by whoever asks it
            self._connection.send_bytes(order)

    @property
    def is_alive(self) -> bool:
        return not self._expired and self._child.poll() is None

    @property
    def pid(self) -> int:
        return self._child.pid

    def ask(self, message: bytes | None, seconds: float) -> bytes:
        """Send a message, if there is one, and wait for an answer.

        Raises:
            TimeoutError: It did not come in time, and the process was killed.
            Died: The process is gone.
        """
        with self._killed_after(seconds):
            try:
                if message is not None:
                    self._connection.send_bytes(message)
                return self._connection.recv_bytes()
            except (EOFError, OSError):
                pass
        self.release()
        if self._expired:
            raise TimeoutError
        raise Died(self._obituary())

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        """A thread that waits beside, because writing to a process that does not read can block as well."""
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._expired = True
        self.kill()

    def kill(self) -> None:
        """SIGKILL the process and what it has started; whoever waits for it is told at once."""
        _kill(self._child)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the connection, which nobody may be reading."""
        self._connection.close()
        self._socket.close()

    def _obituary(self) -> str:
        try:
            code = self._child.wait(_REAPING_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")


@functools.cache
def _starter() -> ThreadPoolExecutor:
    """The one thread that starts processes: on Linux they die with the thread that started them, so it must last."""
    return ThreadPoolExecutor(1, thread_name_prefix="dovetail-process")


def _start(command: list[str], descriptor: int) -> subprocess.Popen[bytes]:
    # In a session of its own a process is spared the Ctrl-C of the terminal, and is killed with what it has started.
    return subprocess.Popen(
        command,
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **_ONE_THREAD},
    )


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
