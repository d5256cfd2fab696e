"""What goes wrong with a call. All of it makes a sample invalid; none of it is ever a score."""

from __future__ import annotations

from typing import Any

from dovetail import errors
from dovetail.errors import DovetailError


class RemoteError(RuntimeError):
    """A call to the server failed."""


class SessionLost(RemoteError):
    """The episode is gone: the server was restarted or cannot be reached, or the lease has ended."""


class RemoteFailure(RuntimeError):
    """What the environment itself raised. It is a RuntimeError, whose class has the name of the original's."""


class Refused(Exception):
    """A no of the server or of gRPC: the name of a status, a text, and sometimes a word for programs."""

    def __init__(self, code: str, text: str, reason: str = "") -> None:
        super().__init__(f"{code.lower()}: {text}")
        self.code, self.text, self.reason = code, text, reason

    @classmethod
    def of(cls, error: Any) -> Refused:
        """From an error of gRPC."""
        return cls(error.code().name, str(error.details()))


def raised(failure: Any, address: str) -> Exception:
    """The error of an environment, named and worded as on the server; a note tells where its traceback is."""
    error: Exception
    if failure.is_general:
        known = getattr(errors, failure.type, None)
        kind = known if isinstance(known, type) and issubclass(known, DovetailError) else DovetailError
        error = kind(failure.message)
    else:
        error = type(failure.type, (RemoteFailure,), {})(failure.message)
    error.add_note(f"raised on {address}; the server's log has the traceback under {failure.id}")
    return error
