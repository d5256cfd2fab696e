"""The label that came with a row of data, as a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dovetail import hookimpl

if TYPE_CHECKING:
    from dovetail import Tasks


@attrs.frozen
class Label:
    """The column ``label`` of a row: 1 for the chosen answer of a pair, 0 for the rejected one.

    Args:
        column: The column to read.
    """

    column: str = "label"

    @hookimpl
    def score(self, tasks: Tasks) -> list[float]:
        """``[B]`` numbers; a row without the column is a DataError."""
        return [float(value) for value in tasks[self.column]]
