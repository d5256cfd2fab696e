"""What episodes start from, and whether the server is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dovetail import DataError, Message, Task, UserError
from dovetail.errors import did_you_mean
from dovetail.jsonl import read_jsonl

if TYPE_CHECKING:
    from dovetail_openenv import OpenEnv


def tasks_of(options: OpenEnv, split: str) -> Sequence[Task]:
    """One for each start."""
    if options.path is None:
        count = {"train": options.size, "test": options.test_size}.get(split, 0)
        first = options.size if split == "test" else 0
        starts: Sequence[Mapping[str, Any]] = [{"seed": seed} for seed in range(first, first + count)]
    else:
        rows = list(read_jsonl(options.path, _read, "stop"))
        if not rows:
            raise DataError(f"{options.path} has no tasks", hint='lines like {"seed": 3}')
        cut = max(0, len(rows) - options.test_size)
        starts = {"train": rows[:cut], "test": rows[cut:]}.get(split, [])
    # The first prompt is the server's, and comes with the reset.
    told = (Message("user", options.prompt.replace("{observation}", "").strip()),)
    return [Task(f"{split}-{row}", told, None, {"reset": dict(start)}) for row, start in enumerate(starts)]


def _read(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise TypeError(f"an object was expected, got {type(row).__name__}")
    return row


def check_server(options: OpenEnv) -> None:
    """Ask for its schema.

    Raises:
        UserError: It cannot be reached, is no OpenEnv server, or its actions have other fields.
    """
    import httpx

    what = f"the OpenEnv server {options.url} cannot be used"
    try:
        answer = httpx.get(f"{options.url.rstrip('/')}/schema", timeout=options.timeout)
        answer.raise_for_status()
        schema = answer.json()["action"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{what}: {reason}", hint="is it running there? /schema must answer") from error
    known = schema.get("properties", {})
    if isinstance(options.action, str) or not options.action or options.calls:
        return
    for field in options.action:
        if field not in known:
            raise UserError(f"{what}: an action has no field {field!r}; {did_you_mean(field, known)}")
    missing = [field for field in schema.get("required", ()) if field not in options.action]
    if missing:
        raise UserError(f"{what}: an action needs the field {missing[0]!r}", hint="name it under `action`")
