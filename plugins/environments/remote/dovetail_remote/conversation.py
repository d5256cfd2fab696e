"""The server's side of a stream: many calls at a time, replies in batches as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from dovetail_remote import environments_pb2 as pb

BATCH_BYTES = 1 << 20


class Conversation:
    """The calls of one client.

    ``max_pending`` calls run at a time; no more are read until some are answered. A client that does not read its
    replies stops its own calls, and nobody else's.
    """

    def __init__(
        self,
        reply: Callable[[pb.Request], Awaitable[pb.Reply]],
        write: Callable[[pb.Replies], Awaitable[None]],
        max_pending: int,
        max_message_bytes: int,
    ) -> None:
        self._reply, self._write, self._max_message_bytes = reply, write, max_message_bytes
        self._places = asyncio.Semaphore(max_pending)
        self._ready: asyncio.Queue[pb.Reply | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def hold(self, requests: AsyncIterator[pb.Requests]) -> None:
        """Read and answer until the client has said all and heard all, or is gone."""
        reading = asyncio.ensure_future(self._read(requests))
        try:
            while (first := await self._ready.get()) is not None:
                await self._write(self._batch(first))
            await reading  # which tells if the client has sent what cannot be read
        finally:
            # What runs in a session goes on: the client may come back for it.
            for task in (reading, *self._tasks):
                task.cancel()

    async def _read(self, requests: AsyncIterator[pb.Requests]) -> None:
        try:
            async for batch in requests:
                for request in batch.requests:
                    await self._places.acquire()
                    task = asyncio.ensure_future(self._answer(request))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            await asyncio.gather(*self._tasks)
        finally:
            self._ready.put_nowait(None)

    async def _answer(self, request: pb.Request) -> None:
        reply = await self._reply(request)
        if (size := reply.ByteSize()) > self._max_message_bytes:
            text = f"the reply has {size} bytes, and the server's max_message_mb is {self._max_message_bytes >> 20}"
            reply = pb.Reply(id=request.id, refusal=pb.Refusal(code="RESOURCE_EXHAUSTED", text=text))
        self._ready.put_nowait(reply)

    def _batch(self, first: pb.Reply) -> pb.Replies:
        batch, size, following = pb.Replies(replies=[first]), first.ByteSize(), None
        self._places.release()
        while size < BATCH_BYTES and not self._ready.empty():
            if (following := self._ready.get_nowait()) is None:
                self._ready.put_nowait(None)
                break
            self._places.release()
            batch.replies.append(following)
            size += following.ByteSize()
        return batch
