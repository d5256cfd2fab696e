"""Threads for blocking environments: one for each call, and none that keeps the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class DaemonThreads(ThreadPoolExecutor):
    """Runs each call in a daemon thread of its own.

    The pool that it is derived from, because an event loop takes no other, has few threads, which calls that hang would
    use up, and it joins them when the process ends.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start the call."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # whoever waits decides what it means
                future.set_exception(error)

        threading.Thread(target=run, name="dovetail-episode", daemon=True).start()
        return future
