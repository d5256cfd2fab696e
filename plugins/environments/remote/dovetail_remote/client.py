"""The client: one channel, any number of episodes, from any event loop.

It uses gRPC's blocking stack, whose futures belong to no event loop: a run, its evaluation and a notebook have loops
of their own, and a channel of grpc.aio would be bound to one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from dovetail import Message, StepResult, Task, ToolSpec, UserError
from dovetail_remote import environments_pb2 as pb
from dovetail_remote import environments_pb2_grpc as rpc
from dovetail_remote import wire
from dovetail_remote.errors import RemoteError, SessionLost, raised
from dovetail_remote.tokens import read_file, read_token

if TYPE_CHECKING:
    from dovetail_remote import Remote

_PAGE = 500


class RemoteEpisode:
    """An environment on the server."""

    def __init__(self, connection: Connection, session: str, tools: Sequence[ToolSpec], agents: Sequence[str]) -> None:
        self.tools, self.agents = tools, agents
        self.session = session
        self._connection, self._turn, self._closed = connection, 0, False

    async def reset(self, *, seed: int, task: Task | None = None) -> StepResult:
        """Begin the episode."""
        request = pb.ResetRequest(session=self.session, turn=self._next(), seed=seed)
        if task is not None:
            request.task.CopyFrom(wire.task_out(task))
        outcome = await self._connection.call("Reset", request)
        self.tools, self.agents = wire.tools_in(outcome.tools), tuple(outcome.agents)
        return wire.result_in(outcome.result)

    async def step(self, action: Message) -> StepResult:
        """Answer a turn."""
        request = pb.StepRequest(session=self.session, turn=self._next(), action=wire.message_out(action))
        return wire.result_in((await self._connection.call("Step", request)).result)

    async def close(self) -> None:
        """Give the session back. If the server cannot be told, the session ends with its lease."""
        if not self._closed:
            self._closed = True
            await self._connection.hang_up(self)

    def _next(self) -> int:
        if self._closed:
            raise RuntimeError("the episode is closed")
        self._turn += 1
        return self._turn


class Connection:
    """A channel to the server, with retries, deadlines, and the heartbeat that keeps sessions alive."""

    def __init__(self, options: Remote) -> None:
        self._options = options
        self._channel = _open_channel(options)
        self._stub = rpc.EnvironmentsStub(self._channel)
        self._metadata = ()
        if options.token_file:
            self._metadata = (("authorization", f"Bearer {read_token(options.token_file)}"),)
        self._places: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()
        self._episodes: weakref.WeakSet[RemoteEpisode] = weakref.WeakSet()
        self._heart: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def tasks(self, split: str) -> Iterator[Task]:
        """All tasks of a split, page by page."""
        start = 0
        while True:
            page = self._list_tasks(split, start)
            if page.HasField("failure"):
                told = raised(page.failure, self._options.address)
                raise UserError(f"{page.failure.type}: {page.failure.message}", where=told.__notes__)
            yield from map(wire.task_in, page.tasks)
            start += len(page.tasks)
            if page.is_last:
                return

    def _list_tasks(self, split: str, start: int) -> Any:
        request = pb.ListTasksRequest(environment=self._options.environment, split=split, start=start, count=_PAGE)
        retries = Retries(self._options)
        while True:
            try:
                return self._stub.ListTasks(request, timeout=self._options.timeout, metadata=self._metadata)
            except grpc.RpcError as error:
                pause = retries.pause(error)
                if pause is None:
                    raise _user_error(error, self._options) from error
                time.sleep(pause)

    async def open(self) -> RemoteEpisode:
        """A new session; waits for a place if the server is full."""
        session = secrets.token_hex(16)
        opened = await self.call("Open", pb.OpenRequest(environment=self._options.environment, session=session))
        episode = RemoteEpisode(self, session, wire.tools_in(opened.tools), tuple(opened.agents))
        self._episodes.add(episode)
        self._keep_alive(opened.lease_seconds / 3)
        return episode

    async def hang_up(self, episode: RemoteEpisode) -> None:
        self._episodes.discard(episode)
        with contextlib.suppress(grpc.RpcError):
            await self._once("Close", pb.CloseRequest(session=episode.session), min(10.0, self._options.timeout))

    async def call(self, method: str, request: Any) -> Any:
        """The reply; sent again while the server cannot be reached or has no place.

        Raises:
            SessionLost: The server does not know the session any more, or did not come back.
            RemoteError: It refused, failed, or gave no answer in time.
            RemoteFailure: The environment has raised.
        """
        retries = Retries(self._options)
        while True:
            try:
                reply = await self._once(method, request, self._options.timeout)
            except grpc.RpcError as error:
                pause = retries.pause(error)
                if pause is None:
                    raise _error(error, method, self._options) from error
                await asyncio.sleep(pause)
                continue
            if "failure" in reply.DESCRIPTOR.fields_by_name and reply.HasField("failure"):
                raise raised(reply.failure, self._options.address)
            return reply

    async def _once(self, method: str, request: Any, seconds: float) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._places:
            self._places[loop] = asyncio.Semaphore(self._options.max_in_flight)
        async with self._places[loop]:
            answer = loop.create_future()
            call = getattr(self._stub, method).future(request, timeout=seconds, metadata=self._metadata)
            call.add_done_callback(lambda done: _tell(loop, answer, done))
            try:
                return await answer
            except asyncio.CancelledError:
                call.cancel()
                raise

    def _keep_alive(self, interval: float) -> None:
        with self._lock:
            if self._heart is None or not self._heart.is_alive():
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
        with contextlib.suppress(grpc.RpcError):  # the calls of the sessions will tell
            self._stub.Heartbeat(pb.HeartbeatRequest(sessions=sessions), timeout=seconds, metadata=self._metadata)
        return True

    def close(self) -> None:
        """Hang up; sessions that are open end with their lease."""
        self._stopped.set()
        self._channel.close()


class Retries:
    """How long to wait before a call is sent again, counted from its first attempt."""

    def __init__(self, options: Remote) -> None:
        self._options, self._started, self._pause = options, time.monotonic(), 0.05

    def pause(self, error: Any) -> float | None:
        """Seconds, or None if it shall not be sent again."""
        patience = 0.0
        if _reason(error) == "capacity":
            patience = self._options.wait
        elif error.code() is grpc.StatusCode.UNAVAILABLE and "handshake" not in str(error.details()).lower():
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


def _tell(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any], done: Any) -> None:
    def settle() -> None:
        if answer.done():
            return
        if done.cancelled():
            answer.cancel()
        elif (error := done.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(done.result())

    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
        loop.call_soon_threadsafe(settle)


def _open_channel(options: Remote) -> Any:
    limit = options.max_message_mb << 20
    arguments = {
        "grpc.max_receive_message_length": limit,
        "grpc.max_send_message_length": limit,
        "grpc.keepalive_time_ms": 20_000,  # a connection that was cut without a word is noticed
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1000,
        "grpc.max_reconnect_backoff_ms": 2000,
        "grpc.use_local_subchannel_pool": 1,
    }
    if not (options.ca or options.tls):
        return grpc.insecure_channel(options.address, list(arguments.items()))
    credentials = grpc.ssl_channel_credentials(
        read_file(options.ca, "ca") if options.ca else None,
        read_file(options.key, "key") if options.key else None,
        read_file(options.certificate, "certificate") if options.certificate else None,
    )
    return grpc.secure_channel(options.address, credentials, list(arguments.items()))


def _reason(error: Any) -> str:
    return dict(error.trailing_metadata() or ()).get("dovetail-reason", "")


def _error(error: Any, method: str, options: Remote) -> RemoteError:
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RemoteError(f"{method} had no answer from {options.address} within {options.timeout:g} s")
    kind = RemoteError
    if method != "Open" and code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
        kind = SessionLost
    return kind(f"{method} at {options.address}: {code.name.lower()}: {details}")


def _user_error(error: Any, options: Remote) -> UserError:
    hints = {
        grpc.StatusCode.UNAUTHENTICATED: "token_file must hold the server's token",
        grpc.StatusCode.UNAVAILABLE: "is it running there, with TLS on both sides or on neither? "
        "`dovetail serve environments CONFIG` starts it",
        grpc.StatusCode.DEADLINE_EXCEEDED: "a greater timeout, if it reads much",
    }
    what = f"the environment server {options.address} gives no tasks: {error.code().name.lower()}: {error.details()}"
    return UserError(what, hint=hints.get(error.code(), ""))
