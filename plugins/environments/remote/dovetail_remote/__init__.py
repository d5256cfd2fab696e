"""Environments that run on another machine, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge, gt

from dovetail import Environment, Task, hookimpl

if TYPE_CHECKING:
    from dovetail_remote.client import Connection


@attrs.define(eq=False)
class Remote:
    """An environment behind ``dovetail serve environments``: the same tasks, episodes and rewards as on the spot.

    Each episode has an environment of its own on the server. A call whose reply was lost is sent again and not run
    again. If the server is gone or restarted, the episodes that it held raise SessionLost, so that their samples are
    invalid, never mis-scored.

    Args:
        address: Host and port of the server.
        environment: Its name there; may be left out if the server has one.
        ca: A PEM file with the authority that signed the server's certificate. Without ``ca`` and ``tls`` the
            connection is not encrypted.
        tls: Use TLS with the authorities of the system.
        certificate: A PEM file, to show to a server that asks for one; with ``key``.
        key: A PEM file, the private key of the certificate.
        token_file: A file that holds the server's token.
        timeout: Seconds that one attempt of a call may take. Usual range 30 to 600.
        reconnect: Seconds within which a server that cannot be reached must be back.
        wait: Seconds that a new episode waits for a place on a full server.
        max_in_flight: Calls at a time; more wait here. Usual range 64 to 512.
    """

    address: str
    environment: str = ""
    ca: str | None = None
    tls: bool = False
    certificate: str | None = None
    key: str | None = None
    token_file: str | None = None
    timeout: float = attrs.field(default=120.0, validator=gt(0))
    reconnect: float = attrs.field(default=15.0, validator=ge(0))
    wait: float = attrs.field(default=600.0, validator=ge(0))
    max_in_flight: int = attrs.field(default=256, validator=ge(1))
    _connection: Any = attrs.field(default=None, init=False, repr=False)
    _traits: tuple[str, ...] | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if self.certificate and not (self.ca or self.tls):
            raise ValueError("a certificate needs TLS: give ca, or tls=True")

    @property
    def traits(self) -> tuple[str, ...]:
        """Those of the environment on the server, which is asked once."""
        if self._traits is None:
            self._traits = self._connected().traits()
        return self._traits

    @hookimpl
    def tasks(self, split: str) -> Iterable[Task]:
        """The server's tasks of a split; if they are a stream, they are fetched page by page as they are used.

        Raises:
            UserError: The server cannot be reached, refuses the token, or has no such environment or tasks.
        """
        return self._connected().tasks(split)

    @hookimpl
    async def make(self) -> Environment:
        """A fresh episode on the server."""
        return await self._connected().open()

    @hookimpl
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Hang up; the next call connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> Connection:
        if self._connection is None:
            from dovetail_remote.client import Connection

            self._connection = Connection(self)
        return self._connection
