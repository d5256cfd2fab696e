"""The worker of a reward: a process that is kept warm between batches, killed at the deadline and replaced."""

from __future__ import annotations

import functools
import math
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs

from dovetail.parts import Part
from dovetail_process.order import Order
from dovetail_process.process import Died, Process

START_SECONDS = 120.0  #: for a process to start and to import its reward


class Clock:
    """The seconds left to a batch and all its retries. It stands still until the worker is ready for the first time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends: float | None = None

    def start(self) -> None:
        if self._ends is None:
            self._ends = time.monotonic() + self.seconds

    def stop(self) -> None:
        """Leave nothing: the run is over."""
        self._ends = -math.inf

    @property
    def is_running(self) -> bool:
        return self._ends is not None

    @property
    def is_stopped(self) -> bool:
        return self._ends == -math.inf

    @property
    def left(self) -> float:
        return self.seconds if self._ends is None else self._ends - time.monotonic()


class Worker:
    """Scores for one reward in a process of its own, which starts when it is first asked.

    Raises:
        UserError: The reward cannot be made again in another process.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._order = self._pack(Order.of(part), "options")
        self._process: Process | None = None
        self._clock: Clock | None = None  # of the last batch
        self._asking, self._changing = threading.Lock(), threading.Lock()

    @property
    def pid(self) -> int | None:
        """Of the process, if one is there."""
        return self._process.pid if self._process else None

    def within(self, seconds: float) -> Callable[..., Any]:
        """The reward's hook, answered by the process: all calls together get so many seconds, its start not counted.

        It raises Unscored with the status TIMEOUT when they are over, and with INVALID and the reason where the reward
        raised or the process died. What stops a run is raised as it is: a process that does not start is a PartError.
        """
        self._clock = Clock(seconds)
        return functools.partial(self._score, self._clock)

    def close(self) -> None:
        """Kill the process; a batch that is being scored ends as TIMEOUT."""
        with self._changing:
            if self._clock:
                self._clock.stop()
            if self._process:
                self._process.kill()
            self._process = None

    def _score(self, clock: Clock, /, **arguments: Any) -> Any:
        from dovetail.runtime.scoring import Unscored

        if "rollouts" in arguments:
            arguments["rollouts"] = _without_model(arguments["rollouts"])
        message = self._pack(arguments, " and ".join(arguments))
        with self._asking:
            process = self._ready(clock)
            try:
                verb, value = pickle.loads(process.ask(message, clock.left))
            except TimeoutError:
                self._replace(clock)  # at once, so that it is warm for the next batch
                raise _too_late(clock) from None
            except Died as death:
                raise (_too_late(clock) if clock.is_stopped else Unscored(f"its worker process {death}")) from None
        if verb == "stop":
            raise value
        if verb == "unscored":
            raise Unscored(value)
        return value

    def _ready(self, clock: Clock) -> Process:
        """A process that has made the reward and waits."""
        if clock.left <= 0:
            raise _too_late(clock)
        process = self._process if self._process and self._process.is_alive else self._replace(clock)
        if not process.is_ready:
            try:
                verb, value = pickle.loads(process.ask(None, clock.left if clock.is_running else START_SECONDS))
            except TimeoutError:
                if clock.is_running:
                    raise _too_late(clock) from None
                raise self._part.error(f"its worker process did not start within {START_SECONDS:g} s") from None
            except Died as death:
                problem = f"its worker process {death} while it started"
                raise (_too_late(clock) if clock.is_stopped else self._part.error(problem)) from None
            if verb != "ready":
                raise value if verb == "stop" else self._part.error(f"its worker process could not make it: {value}")
            process.is_ready = True
        clock.start()
        return process

    def _replace(self, clock: Clock) -> Process:
        with self._changing:
            if clock.is_stopped:
                raise _too_late(clock)
            if self._process:  # it is dead, and nobody reads from it
                self._process.release()
            self._process = Process(self._order)
            return self._process

    def _pack(self, value: Any, what: str) -> bytes:
        try:
            return pickle.dumps(value)
        except Exception as error:  # pickle raises errors of many types
            problem = f"its {what} cannot be sent to its worker process: {type(error).__name__}: {error}"
            raise self._part.error(problem, hint="say process=False to score it in a thread") from error


def _too_late(clock: Clock) -> Exception:
    from dovetail.rollouts import RewardStatus
    from dovetail.runtime.scoring import Unscored

    reason = "the run ended before an answer" if clock.is_stopped else f"no answer within {clock.seconds:g} s"
    return Unscored(reason, RewardStatus.TIMEOUT)


def _without_model(rollouts: Any) -> Any:
    """Rollouts with their texts in the place of the tokenizer, which cannot travel."""
    travelling = attrs.evolve(rollouts, decode=None)
    if rollouts.decode is not None:
        vars(travelling)["texts"] = rollouts.texts
    return travelling
