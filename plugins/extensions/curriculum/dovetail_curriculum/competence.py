"""The easy tasks first, by a difficulty that the tasks bring along."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import and_, ge, gt, le

from dovetail import DataError, hookimpl


@attrs.define(eq=False)
class Curriculum:
    """Draws evenly from the easiest share ``c(t) = min(1, sqrt(t (1 - start²) / steps + start²))`` of the tasks.

    Competence-based learning, Platanios et al. 2019 (arXiv 1903.09848), equation 7. Tasks of equal difficulty come in
    together. After ``steps`` the run draws in epochs, as without.

    Args:
        column: The tasks' column with their difficulty, a number, larger for harder. ``length`` stands for the
            characters of the prompt, if there is no such column.
        steps: Until all tasks are drawn. Usual: a third to a half of the run.
        start: Share of the tasks at the start. Usual range 0.05 to 0.3.
    """

    column: str = "length"
    steps: int = attrs.field(default=100, validator=gt(0))
    start: float = attrs.field(default=0.1, validator=and_(ge(0), le(1)))
    _limits: Any = attrs.field(default=None, init=False)

    def share(self, step: int) -> float:
        """In a step, counted from 0."""
        return min(1.0, math.sqrt(step * (1 - self.start**2) / self.steps + self.start**2))

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Sort the tasks. What is drawn follows from the step alone, so there is no state to keep.

        Raises:
            DataError: The tasks come as a stream, or a difficulty is missing or no number.
        """
        self._limits = [self._difficulty(task) for task in run.batches.items]
        self._draw(run, run.step)

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Let the next ones in."""
        self._draw(run, step)

    def _draw(self, run: Any, step: int) -> None:
        import torch

        if step >= self.steps:
            run.batches.weigh(None)
            return
        difficulties = torch.tensor(self._limits, dtype=torch.float64)
        hardest = difficulties.sort().values[max(math.ceil(self.share(step) * len(difficulties)), 1) - 1]
        run.batches.weigh((difficulties <= hardest).double())

    def _difficulty(self, task: Any) -> float:
        columns = getattr(task, "columns", {})
        if self.column == "length" and "length" not in columns:
            return float(sum(len(message.content) for message in task.messages))
        value = columns.get(self.column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            problem = f"the task {task.id!r} has {value!r} in its column {self.column!r}, and a difficulty is a number"
            raise DataError(problem, hint=f"its columns are {', '.join(sorted(columns)) or 'none'}")
        return float(value)
