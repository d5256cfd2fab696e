"""Options of a recipe that follow the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs.validators import ge, gt, in_

from dovetail import hookimpl


@attrs.define(eq=False, kw_only=True)
class Scheduled:
    """Leads an option from one value to another, linearly or along half a cosine, and leaves it there.

    Cosine: ``end + (start - end) · (1 + cos(π · progress)) / 2``, Loshchilov and Hutter 2017 (arXiv 1608.03983),
    equation 5. For a learning rate take the optimizer's ``schedule``.

    Args:
        node: In the recipe, such as ``loss``, or ``completions`` for the sampling.
        option: Of that node, such as ``entropy_coef``.
        start: The value of the first step.
        end: The value after ``steps``. 0 may switch off what it began with.
        steps: From start to end.
        after: Steps before it begins to move.
        shape: ``linear`` or ``cosine``.
    """

    node: str
    option: str
    start: float
    end: float
    steps: int = attrs.field(validator=gt(0))
    after: int = attrs.field(default=0, validator=ge(0))
    shape: Literal["linear", "cosine"] = attrs.field(default="linear", validator=in_(["linear", "cosine"]))

    def value(self, step: int) -> float:
        """In a step, counted from 0."""
        progress = min(max((step - self.after) / self.steps, 0.0), 1.0)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Set the value of the next step, which the number of steps done says: there is no state to keep."""
        run.option(self.node, self.option)
        run.adjust(self.node, **{self.option: self.value(run.step)})

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Set the value of the next step."""
        run.adjust(self.node, **{self.option: self.value(step)})
