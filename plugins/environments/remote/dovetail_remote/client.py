"""The client: one connection, any number of episodes, from any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from dovetail import Message, StepResult, Task, ToolSpec, UserError
from dovetail_remote import environments_pb2 as pb
from dovetail_remote import environments_pb2_grpc as rpc
from dovetail_remote import wire
from dovetail_remote.errors import Refused, RemoteError, SessionLost, raised
from dovetail_remote.stream import Stream
from dovetail_remote.tokens import read_file, read_token

if TYPE_CHECKING:
    from dovetail_remote import Remote

_PAGE = 500
_CLOSE_SECONDS = 10.0
_BROKEN = ("UNAVAILABLE", "CANCELLED")  # what gRPC says of a stream that ended before its time


class RemoteEpisode:
    """An environment on the server."""

    def __init__(self, connection: Connection, session: str, opened: Any) -> None:
        self.session = session
        self._connection, self._turn, self._closed = connection, 0, False
        self._max_bytes = opened.max_message_bytes
        self._learn(opened)

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin the episode."""
        sent = None if task is None else wire.task_out(task)
        outcome = await self._turned(pb.Request(reset=pb.ResetRequest(session=self.session, seed=seed, task=sent)))
        self._learn(outcome)
        return wire.result_in(outcome.result)

    async def step(self, action: Message) -> StepResult:
        """Answer a turn."""
        request = pb.Request(step=pb.StepRequest(session=self.session, action=wire.message_out(action)))
        return wire.result_in((await self._turned(request)).result)

    async def close(self) -> None:
        """Give the session back. If the server cannot be told, the session ends with its lease."""
        if not self._closed:
            self._closed = True
            await self._connection.hang_up(self)

    def _learn(self, told: Any) -> None:
        self.tools: Sequence[ToolSpec] = wire.tools_in(told.tools)
        self.agents: Sequence[str] = tuple(told.agents)

    async def _turned(self, request: Any) -> Any:
        if self._closed:
            raise RuntimeError("the episode is closed")
        if (size := request.ByteSize()) > self._max_bytes:
            raise RemoteError(
                f"the message has {size} bytes, and the server's max_message_mb is {self._max_bytes >> 20}"
            )
        self._turn += 1
        getattr(request, request.WhichOneof("call")).turn = self._turn
        return (await self._connection.call(request)).outcome


class Connection:
    """A channel to the server, with retries, deadlines, and the heartbeat that keeps sessions alive."""

    def __init__(self, options: Remote) -> None:
        self._options = options
        token = read_token(options.token_file) if options.token_file else None
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel = _open_channel(options)
        self._stub = rpc.EnvironmentsStub(self._channel)
        self._stream: Stream | None = None
        self._places: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()
        self._episodes: weakref.WeakSet[RemoteEpisode] = weakref.WeakSet()
        self._heart: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of a split: a list where the server has a sequence, which a run shuffles, else page by page."""
        first = self._list_tasks(split, 0)
        tasks = RemoteTasks(self, split, first)
        return list(tasks) if first.is_sequence else tasks

    def pages(self, split: str, first: Any) -> Iterator[Any]:
        """All pages of a split, of which the first is known."""
        yield (page := first)
        start = len(page.tasks)
        while not page.is_last:
            yield (page := self._list_tasks(split, start))
            start += len(page.tasks)

    def traits(self) -> tuple[str, ...]:
        """Of the environment on the server."""
        served = self._call(self._stub.ListEnvironments, pb.ListEnvironmentsRequest()).environments
        wanted = self._options.environment
        found = [spec for spec in served if spec.name == wanted or (not wanted and len(served) == 1)]
        if not found:
            known = ", ".join(spec.name for spec in served)
            raise UserError(f"no environment {wanted!r} is served at {self._options.address}; there are: {known}")
        return tuple(found[0].traits)

    def _list_tasks(self, split: str, start: int) -> Any:
        wanted = self._options.environment
        request = pb.ListTasksRequest(environment=wanted, split=split, start=start, count=_PAGE)
        page = self._call(self._stub.ListTasks, request)
        if page.HasField("failure"):
            error = raised(page.failure, self._options.address)
            raise error
        return page

    def _call(self, method: Any, request: Any) -> Any:
        """A call that blocks; sent again as those of the episodes are."""
        retries = Retries(self._options)
        while True:
            try:
                return method(request, timeout=self._options.timeout, metadata=self._metadata)
            except grpc.RpcError as error:
                refused = Refused.of(error)
                pause = retries.pause(refused)
                if pause is None:
                    raise _user_error(refused, self._options) from error
                time.sleep(pause)

    async def open(self) -> RemoteEpisode:
        """A new session; waits for a place if the server is full."""
        session = secrets.token_hex(16)
        request = pb.Request(open=pb.OpenRequest(environment=self._options.environment, session=session))
        opened = (await self.call(request)).opened
        episode = RemoteEpisode(self, session, opened)
        self._episodes.add(episode)
        self._keep_alive(opened.lease_seconds / 3)
        return episode

    async def hang_up(self, episode: RemoteEpisode) -> None:
        """Close a session, if the server can be told."""
        self._episodes.discard(episode)
        with contextlib.suppress(Refused, TimeoutError):
            await self._ask(pb.Request(close=pb.CloseRequest(session=episode.session)), _CLOSE_SECONDS)

    async def call(self, request: Any) -> Any:
        """The reply; sent again while the server cannot be reached or has no place.

        Raises:
            SessionLost: The server does not know the session any more, or did not come back.
            RemoteError: It refused, failed, or gave no answer in time.
            RemoteFailure: The environment has raised.
        """
        options, retries = self._options, Retries(self._options)
        while True:
            try:
                reply = await self._ask(request, options.timeout)
            except Refused as refused:
                pause = retries.pause(refused)
                if pause is None and refused.code in ("UNAUTHENTICATED", "INVALID_ARGUMENT"):
                    raise _user_error(refused, options) from refused  # it would be so in every episode
                if pause is None:
                    is_gone = not request.HasField("open") and refused.code in ("NOT_FOUND", *_BROKEN)
                    raise (SessionLost if is_gone else RemoteError)(f"{options.address}: {refused}") from refused
                await asyncio.sleep(pause)
                continue
            except TimeoutError:
                raise RemoteError(f"{options.address} gave no answer within {options.timeout:g} s") from None
            if reply.HasField("failure"):
                raise raised(reply.failure, options.address)
            return reply

    async def _ask(self, request: Any, seconds: float) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._places:
            self._places[loop] = asyncio.Semaphore(self._options.max_in_flight)
        async with self._places[loop], asyncio.timeout(seconds):
            return await self._connected().ask(request)

    def _connected(self) -> Stream:
        with self._lock:
            if self._stopped.is_set():
                raise Refused("ABORTED", "the connection was closed when the run ended")
            if self._stream is None or not self._stream.alive:
                self._stream = Stream(self._stub, self._metadata)
            return self._stream

    def _keep_alive(self, interval: float) -> None:
        with self._lock:
            if self._heart is None:
                arguments = (weakref.ref(self), self._stopped, interval)
                self._heart = threading.Thread(target=_beat, args=arguments, name="dovetail-heartbeat", daemon=True)
                self._heart.start()

    def beat(self, seconds: float) -> bool:
        """Tell the server which sessions are in use; False if none is."""
        with self._lock:
            sessions = [episode.session for episode in list(self._episodes)]
            if not sessions:
                self._heart = None
                return False
        with contextlib.suppress(grpc.RpcError, ValueError):  # the calls of the sessions will tell
            self._stub.Heartbeat(pb.HeartbeatRequest(sessions=sessions), timeout=seconds, metadata=self._metadata)
        return True

    def close(self) -> None:
        """Hang up; sessions that are open end with their lease."""
        self._stopped.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        self._channel.close()


class RemoteTasks:
    """Tasks that are fetched as they are used, each time anew."""

    def __init__(self, connection: Connection, split: str, first: Any) -> None:
        self._connection, self._split, self._first = connection, split, first

    def __iter__(self) -> Iterator[Task]:
        for page in self._connection.pages(self._split, self._first):
            yield from map(wire.task_in, page.tasks)


class Retries:
    """How long to wait before a call is sent again, counted from its first attempt."""

    def __init__(self, options: Remote) -> None:
        self._options, self._started, self._pause = options, time.monotonic(), 0.05

    def pause(self, refused: Refused) -> float | None:
        """Seconds, or None if it shall not be sent again."""
        patience = 0.0
        if refused.reason == "capacity":
            patience = self._options.wait
        elif refused.code in _BROKEN and "handshake" not in refused.text.lower():
            patience = self._options.reconnect
        pause = self._pause * random.uniform(0.5, 1.0)  # so that many that wait do not come back at once
        self._pause = min(2 * self._pause, 2.0)
        return pause if time.monotonic() - self._started + pause <= patience else None


def _beat(connection: Callable[[], Connection | None], stopped: threading.Event, interval: float) -> None:
    while not stopped.wait(interval):
        alive = connection()
        if alive is None or not alive.beat(max(interval, 1.0)):
            return
        del alive


def _open_channel(options: Remote) -> Any:
    arguments = {
        "grpc.max_receive_message_length": -1,  # the server keeps its replies within its limit
        "grpc.max_send_message_length": -1,
        "grpc.keepalive_time_ms": 20_000,  # a connection that was cut without a word is noticed
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1000,
        "grpc.max_reconnect_backoff_ms": 2000,
        "grpc.use_local_subchannel_pool": 1,  # no backoff is inherited from another channel
    }
    if not (options.ca or options.tls):
        return grpc.insecure_channel(options.address, list(arguments.items()))
    credentials = grpc.ssl_channel_credentials(
        read_file(options.ca, "ca") if options.ca else None,
        read_file(options.key, "key") if options.key else None,
        read_file(options.certificate, "certificate") if options.certificate else None,
    )
    return grpc.secure_channel(options.address, credentials, list(arguments.items()))


def _user_error(refused: Refused, options: Remote) -> UserError:
    hints = {
        "UNAUTHENTICATED": "token_file must hold the server's token",
        "UNAVAILABLE": "is it running there, with TLS on both sides or on neither? "
        "`dovetail serve environments CONFIG` starts it",
        "DEADLINE_EXCEEDED": "a greater timeout, if it reads much",
    }
    what = f"the environment server {options.address} cannot be used: {refused}"
    return UserError(what, hint=hints.get(refused.code, ""))
