"""Where episodes ask for the policy's next turn, and the training thread takes the questions that are ready."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import attrs

Turn = tuple[list[int], list[float]]  # tokens and their log-probs


@attrs.define(eq=False)
class Request:
    """A turn that an episode waits for."""

    row: int  #: of the episode
    prompt: list[int]
    seed: int
    limit: int  #: most tokens of the turn
    answer: asyncio.Future[Turn]


class Desk:
    """Holds the requests of the episodes in flight. Episodes run on an event loop, the policy in another thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: list[Request] = []
        self._in_flight = 0

    def enter(self, count: int) -> None:
        """Episodes begin, or are about to."""
        with self._condition:
            self._in_flight += count

    def leave(self) -> None:
        """An episode has ended."""
        with self._condition:
            self._in_flight -= 1
            self._condition.notify()

    def wait_until_empty(self, timeout: float) -> None:
        """Until no episode is left, or at most ``timeout`` seconds."""
        with self._condition:
            self._condition.wait_for(lambda: self._in_flight <= 0, timeout)

    async def ask(self, row: int, prompt: list[int], seed: int, limit: int) -> Turn:
        """The policy's turn after ``prompt``; whoever asks waits, and the others go on."""
        request = Request(row, prompt, seed, limit, asyncio.get_running_loop().create_future())
        with self._condition:
            self._waiting.append(request)
            self._condition.notify()
        try:
            return await request.answer
        finally:
            with self._condition:
                if request in self._waiting:  # it was cancelled
                    self._waiting.remove(request)

    def take(self, patience: float | None, timeout: float) -> list[Request] | None:
        """The requests that are ready, in the order of their rows; none when no episode is left.

        Waits for ``patience`` seconds after the first one, or until all episodes in flight are ready.

        Raises:
            TimeoutError: For ``timeout`` seconds no episode has asked or ended.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: self._waiting or not self._in_flight, timeout):
                raise TimeoutError(f"no episode has asked or ended within {timeout:g} s")
            self._condition.wait_for(lambda: len(self._waiting) >= self._in_flight, patience)
            taken, self._waiting = self._waiting, []
            return sorted(taken, key=lambda request: request.row) or None

    def answer(self, requests: Sequence[Request], turns: Sequence[Turn]) -> None:
        """Let the episodes go on."""

        def deliver() -> None:
            for request, turn in zip(requests, turns, strict=True):
                if not request.answer.done():
                    request.answer.set_result(turn)

        if requests:
            requests[0].answer.get_loop().call_soon_threadsafe(deliver)
