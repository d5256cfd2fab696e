"""What runs in a worker process: one reward, asked over a socket. Messages are pickled tuples of a verb and a value."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import signal
import sys
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any

from dovetail.errors import DovetailError
from dovetail.parts import Part, line_of

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int) -> None:
    """Make the reward of the first message, then score one batch for each further one, until the parent is gone."""
    _die_with(parent)
    os.set_inheritable(descriptor, False)  # what the reward starts must not keep the connection open
    connection = Connection(descriptor)
    try:
        try:
            part = pickle.loads(connection.recv_bytes()).build()
        except Exception as error:
            connection.send_bytes(_told(error))
            return
        connection.send_bytes(pickle.dumps(("ready", None)))
        hook = _blocking(part)
        while True:
            connection.send_bytes(_answer(part, hook, connection.recv_bytes()))
    except (EOFError, OSError):
        return


def _die_with(parent: int) -> None:
    """Also while a reward holds the interpreter, when nobody here could notice that the parent is gone."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before
        os._exit(1)


def _blocking(part: Part) -> Callable[..., Any]:
    """The hook; an async one on an event loop that lives as long as the process, with the clients bound to it."""
    hook: Callable[..., Any] = part.instance.score
    if not part.is_async("score"):
        return hook
    runner = asyncio.Runner()

    async def scored(start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await start()

    return lambda **arguments: runner.run(scored(functools.partial(hook, **arguments)))


def _answer(part: Part, hook: Callable[..., Any], message: bytes) -> bytes:
    try:
        arguments = pickle.loads(message)
    except Exception as error:
        hint = "keep classes of tasks in a module that can be imported, or say process=False to score in a thread"
        return _told(part.error(f"its process cannot read a batch: {type(error).__name__}: {error}", hint=hint))
    try:
        return pickle.dumps(("scores", hook(**arguments)))
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> bytes:
    """One of dovetail's own stops the run as it is; any other is the reason why rows have no score."""
    if isinstance(error, DovetailError):
        return pickle.dumps(("stop", error))
    place = line_of(error)
    return pickle.dumps(("unscored", f"{type(error).__name__}: {error}" + (f" at {place}" if place else "")))
