"""The client's side of a stream: calls from any event loop go out in batches, replies find their callers.

It uses gRPC's blocking stack, which belongs to no event loop: a run, its evaluation and a notebook have loops of their
own, and a channel of grpc.aio would be bound to one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import grpc

from dovetail_remote import environments_pb2 as pb
from dovetail_remote.errors import Refused

BATCH_BYTES = 1 << 20


class Stream:
    """One conversation with the server. When it breaks, every caller that waits gets a Refused; then it is dead."""

    def __init__(self, stub: Any, metadata: Any) -> None:
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._broken: Refused | None = None
        self._call = stub.Converse(self._requests(), metadata=metadata)
        threading.Thread(target=self._read, name="dovetail-remote", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._broken is None

    async def ask(self, request: Any) -> Any:
        """Send a call and wait for its reply.

        Raises:
            Refused: The server says no, or the stream breaks.
        """
        answer = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._broken is not None:
                raise self._broken
            request.id = next(self._ids)
            self._waiting[request.id] = answer
        self._outgoing.put(request)
        try:
            return await answer
        finally:
            self._waiting.pop(request.id, None)

    def close(self) -> None:
        """End the conversation."""
        self._outgoing.put(None)
        self._call.cancel()

    def _requests(self) -> Iterator[Any]:
        """Batches of what has been asked meanwhile; runs in a thread of gRPC's."""
        while (first := self._outgoing.get()) is not None:
            batch, size = pb.Requests(requests=[first]), first.ByteSize()
            with contextlib.suppress(queue.Empty):
                while size < BATCH_BYTES:
                    following = self._outgoing.get_nowait()
                    if following is None:
                        yield batch
                        return
                    batch.requests.append(following)
                    size += following.ByteSize()
            yield batch

    def _read(self) -> None:
        try:
            for batch in self._call:
                self._settle([(reply.id, reply) for reply in batch.replies])
            broken = Refused("UNAVAILABLE", "the server has hung up")
        except grpc.RpcError as error:
            broken = Refused.of(error)
        with self._lock:
            self._broken = broken
            left = list(self._waiting)
        self._outgoing.put(None)
        self._settle([(number, broken) for number in left])

    def _settle(self, answers: list[tuple[int, Any]]) -> None:
        by_loop: defaultdict[Any, list[tuple[Any, Any]]] = defaultdict(list)
        for number, answer in answers:
            if (waiting := self._waiting.get(number)) is not None:
                by_loop[waiting.get_loop()].append((waiting, answer))
        for loop, settled in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(_tell, settled)


def _tell(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for waiting, answer in settled:
        if waiting.done():  # cancelled meanwhile
            continue
        if isinstance(answer, Refused):
            waiting.set_exception(answer)
        elif answer.HasField("refusal"):
            no = answer.refusal
            waiting.set_exception(Refused(no.code, no.text, no.reason))
        else:
            waiting.set_result(answer)
