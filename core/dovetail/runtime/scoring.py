"""Calling rewards beside the training thread: deadlines, failures row by row, and what comes back."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from dovetail import catalog
from dovetail.errors import DovetailError
from dovetail.parts import Part, line_of
from dovetail.rollouts import Invalid, RewardStatus, Rollouts, Scores


class Offloader:
    """Starts work and gives futures. A call that hangs is left behind in a daemon thread and never blocks the exit."""

    def __init__(self) -> None:
        self._workers: dict[Part, Any] = {}

    def worker(self, part: Part) -> Any:
        """The process that scores for a reward, which starts when it is first asked; a UserError if it cannot."""
        if part not in self._workers:
            problem = f"{part} is to be scored in a process of its own, and what starts one"
            worker = catalog.service("workers", "process", problem, ", or say process=False to score in a thread")
            self._workers[part] = worker(part)
        return self._workers[part]

    def submit(self, work: Coroutine[Any, Any, Any] | Callable[[], Any]) -> Future[Any]:
        """Run a coroutine on the shared event loop, or a blocking call in a thread of its own."""
        if asyncio.iscoroutine(work):
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        threading.Thread(target=_call, args=(work, future), name="dovetail-offload", daemon=True).start()
        return future

    @functools.cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="dovetail-loop", daemon=True).start()
        return loop

    def close(self) -> None:
        """Stop the event loop and the workers; both start again when they are needed."""
        for worker in self._workers.values():
            worker.close()
        if "_loop" in vars(self):
            self._loop.call_soon_threadsafe(self._loop.stop)
            del self._loop


def _call(function: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # the waiting thread decides what it means
        future.set_exception(error)


class PendingScores:
    """A reward that is being computed beside the training thread."""

    def __init__(self, part: Part, rollouts: Rollouts, offloader: Offloader, timeout: float) -> None:
        self._rows, self._timeout, self._deadline = len(rollouts), timeout, time.monotonic() + timeout
        hook, on_loop = part.instance.score, part.is_async("score")
        if part.in_process:  # keeps the deadline itself: its clock stands still while the process starts
            hook, on_loop, self._deadline = offloader.worker(part).within(timeout), False, math.inf
        scoring = _score(part, hook, rollouts)
        self._future = offloader.submit(scoring if on_loop else functools.partial(_finish, scoring))

    def result(self) -> Scores:
        """Wait, at most until the deadline; rows without an answer are TIMEOUT. A PartError tells of a broken part."""
        try:
            left = None if math.isinf(self._deadline) else max(0.0, self._deadline - time.monotonic())
            return self._future.result(left)  # type: ignore[no-any-return]
        except TimeoutError:
            self._future.cancel()
            return Scores.failed(self._rows, f"no answer within {self._timeout:g} s", RewardStatus.TIMEOUT)


class Unscored(Exception):
    """What a worker raises for rows without a score: a reason that needs no further place, and their status."""

    def __init__(self, reason: str, status: RewardStatus = RewardStatus.INVALID) -> None:
        super().__init__(reason)
        self.status = status


async def _score(part: Part, hook: Callable[..., Any], rollouts: Rollouts) -> Scores:
    asked = part.asks_for("score")
    try:
        result = hook(**{n: rollouts if n == "rollouts" else getattr(rollouts, n) for n in asked})
        if inspect.iscoroutinefunction(hook):
            result = await result
    except DovetailError:
        raise
    except Exception as error:
        told = error if isinstance(error, Unscored) else Unscored(_reason(error))
        # One bad row must not cost the others their score, unless the part needs to see them together.
        is_final = len(rollouts) <= 1 or {"groups", "rollouts"} & set(asked) or told.status == RewardStatus.TIMEOUT
        if is_final:
            return Scores.failed(len(rollouts), str(told), told.status)
        rows = [await _score(part, hook, rollouts.select([row])) for row in range(len(rollouts))]
        reasons = {row: scores.reasons[0] for row, scores in enumerate(rows) if scores.reasons}
        return Scores(torch.cat([s.values for s in rows]), torch.cat([s.status for s in rows]), reasons)
    return check_scores(part, result, len(rollouts))


def _finish(scoring: Coroutine[Any, Any, Scores]) -> Scores:
    """Run the coroutine of a blocking reward, which never waits, without a loop: the reward may start its own."""
    try:
        scoring.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("a blocking reward has awaited something")


def _reason(error: Exception) -> str:
    place = line_of(error)
    return f"{type(error).__name__}: {error}" + (f" at {place}" if place else "")


def check_scores(part: Part, result: Any, rows: int) -> Scores:
    """Read what a reward returned; a PartError tells if it is not a number for each sequence."""
    if isinstance(result, Scores):
        result = result.values
    hint = f"return {rows} finite numbers, or dovetail.Invalid(reason) for one that cannot be given"
    broken = functools.partial(part.error, hint=hint)
    if isinstance(result, str | bytes | Mapping) or not hasattr(result, "__len__"):
        raise broken(f"returned {type(result).__name__} {result!r:.60}")
    if isinstance(result, Tensor) and result.ndim != 1:
        raise broken(f"returned a tensor of shape {list(result.shape)}")
    if len(result) != rows:
        raise broken(f"returned {len(result)} values for {rows} sequences")
    values, status, reasons = [0.0] * rows, torch.zeros(rows, dtype=torch.uint8), {}
    for row, value in enumerate(result.tolist() if isinstance(result, Tensor) else result):
        try:
            values[row], reason = _read(value)
        except (TypeError, ValueError):
            raise broken(f"returned {type(value).__name__} {value!r:.60} for sequence {row}") from None
        if reason is not None:
            status[row], reasons[row] = int(RewardStatus.INVALID), reason
    return Scores(torch.tensor(values), status, reasons)


def _read(value: Any) -> tuple[float, str | None]:
    """A score, and why it cannot be used. What is no number raises."""
    if isinstance(value, Invalid):
        return math.nan, value.reason
    if value is None:
        return math.nan, "returned None"
    if isinstance(value, str | bytes):
        raise TypeError
    return float(value), None if math.isfinite(value) else f"returned {float(value)}"


def driver_of(environment: Part, settings: Any) -> Any:
    """What plays the episodes of an environment and gives its reward; see the distribution dovetail-episodes."""
    problem = f"{environment} is to be played, and what plays environments"
    return catalog.service("drivers", "episodes", problem)(environment, settings)
