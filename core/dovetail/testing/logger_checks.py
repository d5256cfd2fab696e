"""What every logger promises."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dovetail.parts import Part
from dovetail.testing.samples import tiny_rollouts
from dovetail.training.run import Run


def checks(part: Part) -> Iterator[tuple[str, Callable[[], None]]]:
    """Claims and functions."""
    yield "it takes a run from start to end, odd numbers included", lambda: _takes_a_run(part)


def _takes_a_run(part: Part) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run = Run(Path(folder) / "run", "checked")
        run.steps = 3
        if part.has("on_run_start"):
            part.call("on_run_start", {"run": run})
        for step in (1, 2, 3):
            metrics = {"loss": 1.0 / step, "reward": float("nan"), "eval/reward": float("inf"), "time/step": 0.1}
            part.call("log_metrics", {"step": step, "metrics": metrics})
        if part.has("log_rollouts"):
            part.call("log_rollouts", {"step": 3, "rollouts": tiny_rollouts()})
        if part.has("close"):
            part.call("close", {})
            part.call("close", {})
