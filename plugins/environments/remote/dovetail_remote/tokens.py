"""Reading secrets: they stand in files, never in a configuration, which a run writes into its folder."""

from __future__ import annotations

from pathlib import Path

from dovetail import UserError


def read_file(path: str, option: str) -> bytes:
    """The bytes of a file that an option names; a UserError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"the file of {option!r} cannot be read: {path}: {error.strerror}") from error


def read_token(path: str) -> str:
    """The token in a file; a UserError if there is none, or one that cannot travel in a header."""
    token = read_file(path, "token_file").decode("utf-8", "replace").strip()
    if not token or not (token.isascii() and token.isprintable()):
        raise UserError(f"{path} holds no token", hint="one line of printable ASCII")
    return token
