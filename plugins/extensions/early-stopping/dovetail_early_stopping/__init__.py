"""End a run when a metric is good enough, or no longer improves."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import structlog
from attrs.validators import ge, in_

from dovetail import hookimpl

log = structlog.get_logger()


@attrs.define(eq=False)
class EarlyStopping:
    """Watches one metric; steps that do not report it do not count.

    Args:
        metric: Its name, such as ``eval/reward``.
        at_least: Stop when it reaches this from below.
        at_most: Stop when it reaches this from above.
        patience: Stop after this many reports without improvement; 0 waits for ever. Usual: 3 to 10.
        mode: Whether ``max`` or ``min`` is better, for patience.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    patience: int = attrs.field(default=0, validator=ge(0))
    mode: Literal["max", "min"] = attrs.field(default="max", validator=in_(["max", "min"]))
    _best: float | None = attrs.field(default=None, init=False)
    _waited: int = attrs.field(default=0, init=False)
    _found: bool = attrs.field(default=False, init=False)
    _others: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        if self.at_least is None and self.at_most is None and not self.patience:
            raise ValueError("give at_least, at_most or patience")

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Look at the metric and stop the run if it is time."""
        if self.metric not in metrics:
            self._others.update(metrics)
            return
        self._found = True
        value = metrics[self.metric]
        if math.isnan(value):
            return
        if self.at_least is not None and value >= self.at_least:
            run.stop(f"{self.metric} is {value:.4g}, at least {self.at_least:g}")
        elif self.at_most is not None and value <= self.at_most:
            run.stop(f"{self.metric} is {value:.4g}, at most {self.at_most:g}")
        elif self.patience and self._has_stalled(value):
            run.stop(f"{self.metric} has not improved for {self.patience} reports")

    def _has_stalled(self, value: float) -> bool:
        better = self._best is None or (value > self._best if self.mode == "max" else value < self._best)
        self._best = value if better else self._best
        self._waited = 0 if better else self._waited + 1
        return self._waited >= self.patience

    @hookimpl
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Say so if the metric never came."""
        if self._others and not self._found:
            near = difflib.get_close_matches(self.metric, self._others) or sorted(self._others)[:8]
            log.warning("early stopping never saw its metric", metric=self.metric, near=near)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited, "found": self._found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._waited, self._found = state["best"], state["waited"], state["found"]
