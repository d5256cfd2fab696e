"""The lines of a stage that makes data: one for each input, kept when the process is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dovetail_trainer.writing import write_text

Entry = dict[str, Any]


class Work:
    """A file with one line for each input that is done, in their order. Half a line at its end is taken back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        if whole[2]:
            write_text(path, (whole[0] + whole[1]).decode())
        self.done = (whole[0] + whole[1]).count(b"\n")

    def fill(self, items: Sequence[Any], size: int, make: Callable[[int, Sequence[Any]], Iterable[Entry]]) -> None:
        """Make what is missing, ``size`` inputs at a time.

        A batch that was cut short is made again as a whole, and its missing lines are added: so what is made does not
        depend on where an earlier process ended.

        Args:
            items: All inputs.
            size: Of a batch.
            make: Takes the number of a batch and its inputs, and gives a line for each.
        """
        for batch, start in enumerate(range(0, len(items), size)):
            chosen = items[start : start + size]
            if self.done < start + len(chosen):
                self._append(list(make(batch, chosen))[self.done - start :])

    def _append(self, entries: Sequence[Entry]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
            file.flush()
            os.fsync(file.fileno())
        self.done += len(entries)

    @property
    def entries(self) -> list[Entry]:
        """All lines."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, as ``write_text`` does."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
