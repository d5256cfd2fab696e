"""What the client raises. All of it makes a sample invalid; none of it is ever a score."""

from __future__ import annotations

from typing import Any


class RemoteError(RuntimeError):
    """A call to the server failed."""


class SessionLost(RemoteError):
    """The episode is gone: the server was restarted or cannot be reached, or the lease has ended."""


class RemoteFailure(RuntimeError):
    """What the environment itself raised. It is a RuntimeError, whose class has the name of the original's."""


def raised(failure: Any, address: str) -> RemoteFailure:
    """The error of an environment, named and worded as on the server; a note tells where its traceback is."""
    kind = type(failure.type, (RemoteFailure,), {})
    error: RemoteFailure = kind(failure.message)
    error.add_note(f"raised on {address}; the server's log has the traceback under {failure.id}")
    return error
