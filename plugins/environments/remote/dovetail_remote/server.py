"""The gRPC service: any environments, one instance for each session."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import structlog

from dovetail import Environment, Part, Task
from dovetail.parts import options_of
from dovetail_remote import environments_pb2 as pb
from dovetail_remote import environments_pb2_grpc as rpc
from dovetail_remote import wire
from dovetail_remote.sessions import Refusal, Sessions

_log = structlog.get_logger()
_PAGE_BYTES = 1 << 20
_MESSAGE_CHARACTERS = 2000


class Service(rpc.EnvironmentsServicer):
    """Serves environments by name."""

    def __init__(self, environments: Mapping[str, Part], sessions: Sessions) -> None:
        self._environments, self._sessions = environments, sessions
        self._books = {name: TaskBook(part) for name, part in environments.items()}

    async def ListEnvironments(self, request: pb.ListEnvironmentsRequest, context: Any) -> Any:
        return pb.ListEnvironmentsReply(environments=[_spec(name, part) for name, part in self._environments.items()])

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> Any:
        return await _answer(context, self._list_tasks(request))

    async def Open(self, request: pb.OpenRequest, context: Any) -> Any:
        return await _answer(context, self._open(request))

    async def Reset(self, request: pb.ResetRequest, context: Any) -> Any:
        async def reset(environment: Environment) -> Any:
            task = wire.task_in(request.task) if request.HasField("task") else None
            result = await environment.reset(seed=request.seed, task=task)
            tools = wire.tools_out(environment.tools)
            return pb.Outcome(result=wire.result_out(result), tools=tools, agents=environment.agents)

        return await self._once(request, context, reset)

    async def Step(self, request: pb.StepRequest, context: Any) -> Any:
        async def step(environment: Environment) -> Any:
            return pb.Outcome(result=wire.result_out(await environment.step(wire.message_in(request.action))))

        return await self._once(request, context, step)

    async def Close(self, request: pb.CloseRequest, context: Any) -> Any:
        self._sessions.end(request.session)
        return pb.CloseReply()

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> Any:
        return pb.HeartbeatReply(unknown=self._sessions.touch(list(request.sessions)))

    async def _list_tasks(self, request: pb.ListTasksRequest) -> Any:
        import asyncio

        name = self._name(request.environment)
        try:
            return await asyncio.to_thread(self._books[name].page, request.split, request.start, request.count)
        except Exception as error:
            return pb.ListTasksReply(failure=_failure(error))

    async def _open(self, request: pb.OpenRequest) -> Any:
        part = self._environments[self._name(request.environment)]
        try:
            environment = await self._sessions.open(request.session, part.instance.make)
            tools, agents = wire.tools_out(environment.tools), environment.agents
        except Refusal:
            raise
        except Exception as error:
            return pb.OpenReply(failure=_failure(error))
        return pb.OpenReply(tools=tools, agents=agents, lease_seconds=self._sessions.lease)

    async def _once(self, request: Any, context: Any, call: Callable[[Environment], Awaitable[Any]]) -> Any:
        async def outcome(environment: Environment) -> Any:
            try:
                return await call(environment)
            except Exception as error:
                return pb.Outcome(failure=_failure(error))

        async def turn() -> Any:
            return await self._sessions.get(request.session).once(request.turn, outcome)

        return await _answer(context, turn())

    def _name(self, name: str) -> str:
        if not name and len(self._environments) == 1:
            return next(iter(self._environments))
        if name not in self._environments:
            known = ", ".join(self._environments)
            raise Refusal("INVALID_ARGUMENT", f"no environment {name!r} is served here; there are: {known}")
        return name


async def _answer(context: Any, work: Awaitable[Any]) -> Any:
    try:
        return await work
    except Refusal as refusal:
        reason = (("dovetail-reason", refusal.reason),) if refusal.reason else ()
        await context.abort(grpc.StatusCode[refusal.code], str(refusal), reason)
    except Exception as error:
        failure = _failure(error)
        await context.abort(grpc.StatusCode.INTERNAL, f"the server failed; its log tells more under {failure.id}")


def _failure(error: Exception) -> Any:
    """What the client may know of an error; the rest is logged under its id."""
    failure = pb.Failure(type=type(error).__name__, message=str(error)[:_MESSAGE_CHARACTERS], id=secrets.token_hex(4))
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
    return pb.EnvironmentSpec(name=name, about=about, options_schema_json=wire.to_json(schema, f"options of {name}"))


class TaskBook:
    """The tasks of an environment by page; each split is read once, as far as somebody has asked."""

    def __init__(self, part: Part) -> None:
        self._part, self._lock = part, threading.Lock()
        self._splits: dict[str, tuple[Iterator[Task], list[Any]]] = {}

    def page(self, split: str, start: int, count: int) -> Any:
        """Some tasks from number ``start`` on: at most ``count``, about a megabyte, at least one if there is one."""
        with self._lock:
            if split not in self._splits:
                self._splits[split] = (iter(self._part.call("tasks", {"split": split})), [])
            rest, known = self._splits[split]
            reply = pb.ListTasksReply()
            size = 0
            for number in range(start, start + min(count, 10_000)):
                while len(known) <= number:
                    task = next(rest, None)
                    if task is None:
                        reply.is_last = True
                        return reply
                    known.append(wire.task_out(task))
                reply.tasks.append(known[number])
                size += known[number].ByteSize()
                if size > _PAGE_BYTES:
                    break
            return reply


class TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets through what bears the token; health checks need none."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

        async def deny(_: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")

        self._deny = grpc.unary_unary_rpc_method_handler(deny)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        if not details.method.startswith("/grpc.health.v1."):
            given = dict(details.invocation_metadata).get("authorization", "")
            if not hmac.compare_digest(str(given).encode(), self._expected):
                return self._deny
        return await continuation(details)


def build_server(service: Service, *, interceptors: Sequence[Any], max_message_bytes: int, max_streams: int) -> Any:
    """A gRPC server that notices dead connections and refuses oversized messages; it has no port yet."""
    options = {
        "grpc.max_receive_message_length": max_message_bytes,
        "grpc.max_send_message_length": max_message_bytes,
        "grpc.max_concurrent_streams": max_streams,  # of one connection; more wait at the client
        "grpc.so_reuseport": 0,  # a second server on the port is an error
        "grpc.keepalive_time_ms": 20_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.http2.min_ping_interval_without_data_ms": 5_000,  # the clients' keepalive is no attack
        "grpc.http2.max_ping_strikes": 0,
    }
    server = grpc.aio.server(interceptors=tuple(interceptors), options=list(options.items()))
    rpc.add_EnvironmentsServicer_to_server(service, server)
    return server
