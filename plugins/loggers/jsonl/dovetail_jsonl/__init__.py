"""Metrics as JSON lines, in a file of the user's choice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dovetail import UserError, hookimpl


@attrs.define(eq=False)
class Jsonl:
    """Appends ``{"step": …, "metrics": {…}}`` for each step; a resumed run leaves no step twice. NaN becomes null.

    The run folder has a ``metrics.jsonl`` of its own in any case; this one may lie elsewhere.

    Args:
        path: Of the file; relative to the run folder.
    """

    path: str = "log.jsonl"
    _file: Any = attrs.field(default=None, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Open the file and drop the lines of steps that will be done again.

        Raises:
            UserError: It cannot be written.
        """
        target = Path(run.directory) / self.path
        try:
            kept = _lines_up_to(target, run.step) if target.exists() else []
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = target.open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{target} cannot be written: {error.strerror}", hint="choose another path") from error
        self._file.writelines(line + "\n" for line in kept)
        self._file.flush()

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


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Whole lines of steps already done; one that a kill cut short is left out."""
    if step == 0:
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [line for line in whole if json.loads(line)["step"] <= step]
