"""What objectives say of rows: a number for each that has a label, and NaN, never 0, for each that has none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

from dovetail import DataError
from dovetail.errors import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Tasks


def labels_of(tasks: Tasks, column: str, objectives: Sequence[str], like: Tensor) -> Tensor:
    """``[B, K]`` labels of one kind, ``preferences`` or ``ratings``; an objective that is not listed is a DataError."""
    import torch

    rows = [task.columns.get(column) or {} for task in tasks]
    for task, row in zip(tasks, rows, strict=True):
        _check(row, objectives, f"the row {task.id!r}")
    numbers = [[row.get(name, nan) for name in objectives] for row in rows]
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(len(rows), len(objectives))


def check_data(rows: Iterable[Mapping[str, Any]], objectives: Collection[str]) -> None:
    """Refuse, before anything is learnt, data with other objectives, or without a label for one of these."""
    missing = set(objectives)
    for number, row in enumerate(rows, start=1):
        labelled = set(_labelled(row))
        _check(labelled, objectives, f"row {number} of the data")
        missing -= labelled
    if missing:
        problem = f"no row of the data has a label for the objective {min(missing)!r}"
        raise DataError(problem, hint="leave it out of `objectives`, or add rows that judge by it")


def _labelled(row: Mapping[str, Any]) -> Iterator[str]:
    for column in ("preferences", "ratings"):
        yield from (name for name, label in (row.get(column) or {}).items() if label is not None)
    if row.get("objective") is not None:
        yield row["objective"]


def _check(labelled: Iterable[str], objectives: Collection[str], place: str) -> None:
    for name in labelled:
        if name not in objectives:
            raise DataError(f"{place} is labelled for the objective {name!r}", hint=did_you_mean(name, objectives))
