"""Reading JSON lines that people have written: a broken one stops with its number, or is skipped and counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from dovetail.errors import DataError

T = TypeVar("T")


def read_jsonl(path: str | Path, read: Callable[[Any], T], on_broken: Literal["stop", "skip"] = "stop") -> Iterator[T]:
    """Give ``read(value)`` for each line that is not empty. A file that cannot be opened is a DataError, and so is a
    broken line (``read`` raises ValueError, TypeError, KeyError or DataError) unless ``on_broken`` is ``skip``.
    """
    try:
        opened = gzip.open if str(path).endswith(".gz") else open
        file = opened(path, "rt", encoding="utf-8")  # closed below; only opening may fail here
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
                    problem = f"line {number} cannot be read: {getattr(error, 'what', error)}"
                    hint = "mend the line, or set on_broken: skip"
                    raise DataError(problem, where=[f"{path}:{number}"], hint=hint) from error
                skipped += 1
            else:
                yield value
    if skipped:
        import structlog

        structlog.get_logger().warning("broken lines were skipped", path=str(path), lines=skipped)
