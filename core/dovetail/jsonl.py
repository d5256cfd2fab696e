"""Reading JSON lines that people have written: a broken one stops with its number, or is skipped and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from dovetail.errors import DataError

T = TypeVar("T")


def read_jsonl(path: str | Path, read: Callable[[Any], T], on_broken: Literal["stop", "skip"] = "stop") -> Iterator[T]:
    """Give ``read(value)`` for each line that is not empty.

    Args:
        path: Of the file.
        read: Turns a line's value into what is wanted; raises ValueError, TypeError, KeyError or DataError if it cannot.
        on_broken: What to do with a line that cannot be read.

    Raises:
        DataError: The file cannot be opened, or a line is broken and ``on_broken`` is ``stop``.
    """
    try:
        file = Path(path).open(encoding="utf-8")  # noqa: SIM115 - closed below; only opening may fail here
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="look at the path") from error
    skipped = 0
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = read(json.loads(line))
            except (ValueError, TypeError, KeyError, DataError) as error:
                if on_broken == "stop":
                    reason = error.what if isinstance(error, DataError) else error
                    raise DataError(
                        f"line {number} cannot be read: {reason}",
                        where=[f"{path}:{number}"],
                        hint="mend the line, or set on_broken: skip",
                    ) from error
                skipped += 1
                continue
            yield value
    if skipped:
        import structlog

        structlog.get_logger().warning("broken lines were skipped", path=str(path), lines=skipped)
