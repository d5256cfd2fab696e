"""What every logger promises."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dovetail.parts import Part
from dovetail_testing.samples import tiny_rollouts
from dovetail_trainer.run import Run


def checks(_: Part) -> dict[str, Callable[[Part], None]]:
    return {"it takes a run from start to end, odd numbers included": _takes_a_run}


def _takes_a_run(part: Part) -> None:
    def tell(hook: str, **arguments: Any) -> None:
        if part.has(hook):
            part.call(hook, arguments)

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run = Run(Path(folder) / "run", "checked")
        run.steps = 3
        tell("on_run_start", run=run)
        for step in (1, 2, 3):
            metrics = {"loss": 1.0 / step, "reward": float("nan"), "eval/reward": float("inf"), "time/step": 0.1}
            tell("log_metrics", step=step, metrics=metrics)
        tell("log_rollouts", step=3, rollouts=tiny_rollouts())
        tell("close")
        tell("close")
