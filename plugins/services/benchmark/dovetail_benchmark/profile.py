"""The extension behind ``dovetail train --profile``: a trace of a few steps, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import ge

from dovetail.parts import hookimpl


@attrs.define(eq=False)
class Profile:
    """Writes a torch.profiler trace of a few steps into the run's folder and says how to open it.

    A resumed run whose steps have been traced is not traced again. Tracing makes its steps slower.

    Args:
        steps: Steps in the trace. Usual: 1 to 5; each adds megabytes.
        warmup: Steps before them. Usual: 1 to 3.
    """

    steps: int = attrs.field(default=3, validator=ge(1))
    warmup: int = attrs.field(default=1, validator=ge(1))
    _profiler: Any = attrs.field(default=None, init=False)
    _first: int = attrs.field(default=0, init=False)
    _last: int = attrs.field(default=0, init=False)
    _written: Path | None = attrs.field(default=None, init=False)
    _done: bool = attrs.field(default=False, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Begin to warm up, unless an earlier part of the run has been traced."""
        if self._done:
            return
        import torch
        from torch.profiler import ProfilerActivity, profile, schedule

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._first = run.step + self.warmup + 1
        self._profiler = profile(
            activities=activities, schedule=schedule(wait=0, warmup=self.warmup, active=self.steps, repeat=1)
        )
        self._profiler.start()

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Count the step; an evaluation before the first step is none."""
        if self._profiler is None or "time/step" not in metrics:
            return
        self._last = step
        if step - self._first + 1 >= self.steps:
            self._write(run)
        else:
            self._profiler.step()

    def _write(self, run: Any) -> None:
        """End tracing; a trace is written if a step past the warm-up has ended."""
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        if self._last >= self._first:
            self._written = run.directory / f"profile-steps-{self._first}-{self._last}.json"
            profiler.export_chrome_trace(str(self._written))
            self._done = True

    @hookimpl
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Say where the trace is."""
        if self._profiler is not None:
            self._write(run)
            if self._written is None:
                print(f"no profile: a run must go on for {self.warmup + 1} steps, the first {self.warmup} warm up")
        if self._written is not None:
            print(
                f"profile of steps {self._first} to {self._last}: {self._written}\n"
                "  open it at https://ui.perfetto.dev (Open trace file) or in chrome://tracing (Load)",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._done = state["done"]
