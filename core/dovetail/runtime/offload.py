"""Work beside the training thread: an event loop for async parts, a daemon thread for each blocking call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import cached_property
from typing import Any


class Offloader:
    """Starts work and gives futures. A call that hangs is left behind in a daemon thread and never blocks the exit."""

    def submit(self, work: Coroutine[Any, Any, Any] | Callable[[], Any]) -> Future[Any]:
        """Run a coroutine on the shared event loop, or a blocking call in a thread of its own."""
        if asyncio.iscoroutine(work):
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        threading.Thread(target=_call, args=(work, future), name="dovetail-offload", daemon=True).start()
        return future

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="dovetail-loop", daemon=True).start()
        return loop

    def close(self) -> None:
        """Stop the event loop."""
        if "_loop" in vars(self):
            self._loop.call_soon_threadsafe(self._loop.stop)
            del self._loop


def _call(function: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # the waiting thread decides what it means
        future.set_exception(error)
