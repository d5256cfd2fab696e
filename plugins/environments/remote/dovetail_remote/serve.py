"""Serve environments to trainers on other machines, over gRPC."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
from attrs.validators import ge, gt

from dovetail import Part, UserError
from dovetail_remote.tokens import read_file, read_token


@attrs.frozen
class ServerSettings:
    """The words of a server's configuration.

    Args:
        environments: Each ``{use: …, name: …, …options}``; ``name`` is what clients ask for, ``use`` if it is not given.
        address: Host and port; port 0 takes a free one, which is printed.
        certificate: A PEM file, the server's chain. With ``key`` it makes the server speak TLS.
        key: A PEM file, the private key of the certificate.
        client_ca: A PEM file; clients must show a certificate that it has signed (mTLS).
        token_file: A file whose text clients must send.
        capacity: Sessions at a time; more are told to wait.
        lease: Seconds of silence after which a session is closed. Usual range 30 to 600.
        drain: Seconds that sessions may go on after SIGTERM.
        max_message_mb: Largest message, in either direction.
        threads: For environments that block (SyncEnvironment).
    """

    environments: tuple[Any, ...]
    address: str = "127.0.0.1:7600"
    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None
    token_file: str | None = None
    capacity: int = attrs.field(default=512, validator=ge(1))
    lease: float = attrs.field(default=60.0, validator=gt(0))
    drain: float = attrs.field(default=30.0, validator=ge(0))
    max_message_mb: int = attrs.field(default=16, validator=ge(1))
    threads: int = attrs.field(default=64, validator=ge(1))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["environments"])
    parser.add_argument("config", help="a file with the words of the README: environments, address, …")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override the configuration")
    parser.add_argument("--insecure", action="store_true", help="allow a public address without TLS and a token")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises:
        UserError: The configuration is wrong, a file is missing, or the address is taken or unsafe.
    """
    settings = read_settings(arguments.config, arguments.set)
    environments = build_environments(settings.environments)
    check_safety(settings, insecure=arguments.insecure)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    _configure_logging()
    asyncio.run(serve(settings, environments))
    # A step that hangs in a thread must not keep a server alive that has drained.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _configure_logging() -> None:
    import structlog

    on_terminal = sys.stderr.isatty()
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *([plain] if on_terminal else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def read_settings(path: str, overrides: list[str]) -> ServerSettings:
    """Read and check a configuration; a ConfigError tells every mistake with its line."""
    from dovetail.errors import ConfigError
    from dovetail.structure import converter, explain
    from dovetail_trainer.config.load import read_file as read_config
    from dovetail_trainer.config.schema import parse_path

    raw, locate = read_config(path, overrides)
    try:
        return converter().structure(raw, ServerSettings)
    except Exception as error:  # cattrs groups errors of many types; each becomes a line
        mistakes = [
            f"{text}  at {at} ({locate(parse_path(at))})".replace("  at  (", "  at (") for at, text in explain(error)
        ]
        raise ConfigError(mistakes) from error


def build_environments(configured: tuple[Any, ...]) -> dict[str, Part]:
    """The environments by the name that clients ask for."""
    from dovetail.registry import registry

    parts: dict[str, Part] = {}
    for number, words in enumerate(configured):
        options = {"use": words} if isinstance(words, str) else dict(words) if isinstance(words, Mapping) else {}
        where = [f"environments[{number}]"]
        if not isinstance(use := options.pop("use", None), str):
            raise UserError("an environment is written {use: <name>, …options} or as its name", where=where)
        name = options.pop("name", use)
        if name in parts:
            raise UserError(f"two environments are called {name!r}", where=where, hint="give one of them a name: …")
        parts[name] = registry("environments")[use](**options)
    if not parts:
        raise UserError("there is no environment to serve", hint="environments: [{use: math}]")
    return parts


def check_safety(settings: ServerSettings, *, insecure: bool) -> None:
    """Refuse a public address without TLS and a token, and half a pair of TLS files."""
    if (settings.certificate is None) != (settings.key is None):
        raise UserError("certificate and key belong together", hint="give both, or neither")
    if settings.client_ca and not settings.certificate:
        raise UserError("client_ca needs TLS", hint="give certificate and key too")
    protected = settings.certificate and (settings.token_file or settings.client_ca)
    if not (protected or insecure or _is_loopback(settings.address)):
        raise UserError(
            f"{settings.address} can be reached by others, and the server lacks TLS or a token",
            hint="set certificate, key and token_file (or client_ca); or say --insecure",
        )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or address.startswith("unix:")


async def serve(settings: ServerSettings, environments: Mapping[str, Part]) -> None:
    """Serve until a signal, then drain: no new sessions, the open ones may end."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    from dovetail_remote.server import Service, TokenCheck, build_server
    from dovetail_remote.sessions import Sessions

    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.set_default_executor(ThreadPoolExecutor(settings.threads, thread_name_prefix="environment"))
    sessions = Sessions(settings.capacity, settings.lease)
    server = build_server(
        Service(environments, sessions, settings.max_message_mb << 20),
        interceptors=[TokenCheck(read_token(settings.token_file))] if settings.token_file else [],
    )
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    await checker.set("", health_pb2.HealthCheckResponse.SERVING)
    port = _bind(server, settings)
    await server.start()
    host = settings.address.rpartition(":")[0]
    print(f"serving {', '.join(environments)} on {host}:{port}", flush=True)
    watching = asyncio.ensure_future(sessions.watch())
    await stopping.wait()
    print(f"draining {len(sessions)} sessions", flush=True)
    await checker.enter_graceful_shutdown()
    await sessions.drain(settings.drain)
    watching.cancel()
    await server.stop(1.0)
    print("stopped", flush=True)


def _bind(server: Any, settings: ServerSettings) -> int:
    import grpc

    try:
        if settings.certificate and settings.key:
            pair = (read_file(settings.key, "key"), read_file(settings.certificate, "certificate"))
            ca = read_file(settings.client_ca, "client_ca") if settings.client_ca else None
            credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)
            return int(server.add_secure_port(settings.address, credentials))
        return int(server.add_insecure_port(settings.address))
    except RuntimeError as error:
        raise UserError(
            f"the server cannot listen on {settings.address}: {error}", hint="is the port taken?"
        ) from error
