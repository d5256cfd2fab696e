"""Work beside the training thread: an event loop for async parts, a daemon thread for each blocking call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any


class Offloader:
    """Starts work and gives futures. A call that hangs is left behind in a daemon thread and never blocks the exit."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a blocking call in a thread of its own; if it returns an awaitable, that is awaited on the loop."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:  # the waiting thread decides what it means
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=work, name="dovetail-offload", daemon=True).start()
        return future

    def submit_async(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine on the shared event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="dovetail-loop", daemon=True).start()
        return self._loop

    def close(self) -> None:
        """Stop the event loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None
