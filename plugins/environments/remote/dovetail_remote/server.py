"""The gRPC service: any environments, one instance for each session."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import grpc
import structlog

from dovetail import DovetailError, Environment, Part, Task
from dovetail.parts import options_of
from dovetail_remote import environments_pb2 as pb
from dovetail_remote import environments_pb2_grpc as rpc
from dovetail_remote import wire
from dovetail_remote.conversation import BATCH_BYTES, Conversation
from dovetail_remote.sessions import Refusal, Sessions

_log = structlog.get_logger()
_MESSAGE_CHARACTERS = 2000


class Service(rpc.EnvironmentsServicer):
    """Serves environments by name."""

    def __init__(self, environments: Mapping[str, Part], sessions: Sessions, max_message_bytes: int) -> None:
        self._environments, self._sessions = environments, sessions
        self.max_message_bytes, self.max_pending = max_message_bytes, 2 * sessions.capacity
        self._books = {name: TaskBook(part) for name, part in environments.items()}

    async def ListEnvironments(self, request: pb.ListEnvironmentsRequest, context: Any) -> Any:
        return pb.ListEnvironmentsReply(environments=[_spec(name, part) for name, part in self._environments.items()])

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> Any:
        try:
            book = self._books[self._name(request.environment)]
            return await asyncio.to_thread(book.page, request.split, request.start, request.count)
        except Refusal as no:
            await context.abort(grpc.StatusCode[no.code], str(no))
        except Exception as error:
            return pb.ListTasksReply(failure=failure_of(error))

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> Any:
        return pb.HeartbeatReply(unknown=self._sessions.touch(list(request.sessions)))

    async def Converse(self, requests: AsyncIterator[pb.Requests], context: Any) -> None:
        """Answer the calls of one client, each in a task of its own."""
        conversation = Conversation(self.reply, context.write, self.max_pending, self.max_message_bytes)
        with contextlib.suppress(asyncio.CancelledError):  # the client is gone, which is no error of the server
            await conversation.hold(requests)

    async def reply(self, request: pb.Request) -> Any:
        """The reply to one call; it raises nothing."""
        try:
            return await self._reply(request)
        except Refusal as no:
            return pb.Reply(id=request.id, refusal=pb.Refusal(code=no.code, text=str(no), reason=no.reason))
        except Exception as error:
            return pb.Reply(id=request.id, failure=failure_of(error))

    async def _reply(self, request: pb.Request) -> Any:
        call = request.WhichOneof("call")
        if call == "open":
            return pb.Reply(id=request.id, opened=await self._open(request.open))
        if call == "close":
            self._sessions.end(request.close.session)
            return pb.Reply(id=request.id, closed=pb.CloseReply())
        if call not in ("reset", "step"):
            raise Refusal("UNIMPLEMENTED", "this server knows no such call: is the client newer?")
        turn = getattr(request, call)
        session = self._sessions.get(turn.session)
        return pb.Reply(id=request.id, outcome=await session.once(turn.turn, _CALLS[call], turn))

    async def _open(self, request: pb.OpenRequest) -> Any:
        part = self._environments[self._name(request.environment)]
        environment = await self._sessions.open(request.session, part.instance.make)
        return pb.OpenReply(
            tools=wire.tools_out(environment.tools),
            agents=environment.agents,
            lease_seconds=self._sessions.lease,
            max_message_bytes=self.max_message_bytes,
        )

    def _name(self, name: str) -> str:
        if not name and len(self._environments) == 1:
            return next(iter(self._environments))
        if name not in self._environments:
            known = ", ".join(self._environments)
            raise Refusal("INVALID_ARGUMENT", f"no environment {name!r} is served here; there are: {known}")
        return name


async def _reset(environment: Environment, request: pb.ResetRequest) -> Any:
    task = wire.task_in(request.task) if request.HasField("task") else None
    result = wire.result_out(await environment.reset(seed=request.seed, task=task))
    return pb.Outcome(result=result, tools=wire.tools_out(environment.tools), agents=environment.agents)


async def _step(environment: Environment, request: pb.StepRequest) -> Any:
    return pb.Outcome(result=wire.result_out(await environment.step(wire.message_in(request.action))))


_CALLS = {"reset": _reset, "step": _step}


def failure_of(error: Exception) -> Any:
    """What the client may know of an error; the rest is logged under its id."""
    failure = pb.Failure(
        type=type(error).__name__,
        message=str(error)[:_MESSAGE_CHARACTERS],
        id=secrets.token_hex(4),
        is_general=isinstance(error, DovetailError),
    )
    _log.warning("an environment has raised", id=failure.id, exc_info=error)
    return failure


def _spec(name: str, part: Part) -> Any:
    kinds: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    chosen, properties = part.options(), {}
    for option in options_of(part.target):
        known_type = {"type": kinds[option.type]} if option.type in kinds else {}
        properties[option.name] = {"description": option.doc, **known_type, "default": chosen.get(option.name)}
    schema = {"type": "object", "properties": properties}
    about = (part.target.__doc__ or "").partition("\n")[0]
    return pb.EnvironmentSpec(
        name=name,
        about=about,
        options_schema_json=wire.to_json(schema, f"options of {name}"),
        traits=getattr(part.instance, "traits", ()),
    )


class TaskBook:
    """The tasks of an environment by page; each split is read once, as far as somebody has asked."""

    def __init__(self, part: Part) -> None:
        self._part, self._lock = part, threading.Lock()
        self._splits: dict[str, _Split] = {}

    def page(self, split: str, start: int, count: int) -> Any:
        """Some tasks from number ``start`` on: at most ``count``, about a megabyte, at least one if there is one."""
        with self._lock:
            if split not in self._splits:
                self._splits[split] = _Split(self._part.call("tasks", {"split": split}))
            chosen = self._splits[split]
            reply, size = pb.ListTasksReply(is_sequence=chosen.is_sequence), 0
            for number in range(start, start + count):
                if (task := chosen.task(number)) is None:
                    reply.is_last = True
                    break
                reply.tasks.append(task)
                size += task.ByteSize()
                if size > BATCH_BYTES:
                    break
            return reply


class _Split:
    """Tasks as they travel, drawn from their source when they are first asked for."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.is_sequence = hasattr(tasks, "__getitem__")
        self._source, self._known = iter(tasks), list[Any]()

    def task(self, number: int) -> Any:
        while len(self._known) <= number:
            if (task := next(self._source, None)) is None:
                return None
            self._known.append(wire.task_out(task))
        return self._known[number]


class TokenCheck(grpc.aio.ServerInterceptor):
    """Lets through what bears the token; health checks need none."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

        async def deny(_: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")

        self._deny = grpc.unary_unary_rpc_method_handler(deny)
        self._deny_stream = grpc.stream_stream_rpc_method_handler(deny)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        if not details.method.startswith("/grpc.health.v1."):
            given = dict(details.invocation_metadata).get("authorization", "")
            if not hmac.compare_digest(str(given).encode(), self._expected):
                return self._deny_stream if details.method.endswith("/Converse") else self._deny
        return await continuation(details)


def build_server(service: Service, *, interceptors: Sequence[Any] = ()) -> Any:
    """A gRPC server that notices dead connections and refuses oversized messages; it has no port yet."""
    options = {
        # A batch may be somewhat larger than its largest call.
        "grpc.max_receive_message_length": service.max_message_bytes + 2 * BATCH_BYTES,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": 0,  # a second server on the port is an error
        "grpc.keepalive_time_ms": 20_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.http2.min_ping_interval_without_data_ms": 5_000,  # the clients' keepalive is no attack
        "grpc.http2.max_ping_strikes": 0,
    }
    server = grpc.aio.server(interceptors=tuple(interceptors), options=list(options.items()))
    rpc.add_EnvironmentsServicer_to_server(service, server)
    return server
