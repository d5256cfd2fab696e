"""Metrics as JSON lines, in a file of the user's choice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dovetail import UserError, hookimpl

_HEAD = b'{"step": '


@attrs.define(eq=False)
class Jsonl:
    """Appends ``{"step": …, "metrics": {…}}`` for each step; a resumed run leaves no step twice. NaN becomes null.

    The run folder has a ``metrics.jsonl`` of its own in any case; this one may lie elsewhere. A file belongs to one
    run: one that begins anew begins its file anew.

    Args:
        path: Of the file; relative to the run folder.
    """

    path: str = "log.jsonl"
    _file: Any = attrs.field(default=None, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Open the file and cut off the lines of steps that will be done again.

        Raises:
            UserError: It cannot be written, or holds something else, which is then left as it is.
        """
        target = Path(run.directory) / self.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            end = _end_of_steps_done(target, run.step) if target.exists() else 0
            self._file = target.open("a", encoding="utf-8", newline="\n")
            self._file.truncate(end)
        except OSError as error:
            raise UserError(f"{target} cannot be written: {error.strerror}", hint="choose another path") from error

    @hookimpl
    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line."""
        numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, "metrics": numbers}) + "\n")
        self._file.flush()

    @hookimpl
    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _end_of_steps_done(path: Path, step: int) -> int:
    """Bytes to keep. At step 0 that is none: an evaluation before the first step is done again as well."""
    keep, end = step > 0, 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not _is_own(line):
                raise UserError(
                    f"{path} is not a file of this logger", where=[f"{path}:{number}"], hint="choose another path"
                )
            keep = keep and line.endswith(b"\n") and json.loads(line)["step"] <= step
            end += len(line) if keep else 0
    return end


def _is_own(line: bytes) -> bool:
    """Whether this logger wrote the line, perhaps cut short by a kill."""
    if not line.endswith(b"\n"):
        return line.startswith(_HEAD[: len(line)])
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() == {"step", "metrics"}
