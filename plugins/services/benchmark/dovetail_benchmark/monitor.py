"""The extension that watches where the time and the memory of a run go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import structlog
from attrs.validators import ge

from dovetail.errors import UserError
from dovetail.parts import hookimpl
from dovetail_benchmark.report import StepRecord, picture, table

if TYPE_CHECKING:
    from dovetail import Rollouts

log = structlog.get_logger()


@attrs.define(eq=False)
class TrainingMonitor:
    """Collects times, speed and memory of every step; prints and writes a table and a picture at the end of the run.

    Args:
        warmup: First steps that the table leaves out, if there are others. Usual: 1 to 5.
        floor: Measure the rate of matrix products at the start, about half a second, and tell how near each phase comes
            to what it must compute. Left out for models whose config does not give their shape.
        picture: Draw times, speed and memory by step (needs matplotlib).
    """

    warmup: int = attrs.field(default=1, validator=ge(0))
    floor: bool = True
    picture: bool = True
    records: list[StepRecord] = attrs.field(factory=list, init=False)
    _rate: float = attrs.field(default=0.0, init=False)
    _measured_on: str = attrs.field(default="", init=False)
    _flops: dict[str, float] = attrs.field(factory=dict, init=False)
    _device: Any = attrs.field(default=None, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Measure the machine."""
        import torch

        from dovetail_benchmark.machine import product_rate

        if run.compiled is None:
            return
        policy = run.compiled.plan.context.agents["policy"]
        self._device = policy.device
        if self.floor and not self._rate:
            dtype = policy.autocast or policy.dtype
            self._rate = product_rate(policy.device, getattr(torch, dtype))
            self._measured_on = f"{dtype} matrix products on {policy.device}"
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    @hookimpl
    def on_rollouts(self, run: Any, rollouts: Rollouts) -> None:
        """Count what the step must compute."""
        if self._rate:
            from dovetail_benchmark.phases import phase_flops

            self._flops = phase_flops(run.compiled, rollouts)

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the step's times; an evaluation before the first step is none."""
        if "time/step" not in metrics:
            return
        times = {name.removeprefix("time/"): value for name, value in metrics.items() if name.startswith("time/")}
        floor = {phase: flops / self._rate for phase, flops in self._flops.items()} if self._rate else {}
        self.records.append(
            StepRecord(step, times, metrics["tokens"], metrics["rss_mb"], self._peak_mb(), floor),
        )

    def _peak_mb(self) -> float | None:
        if self._device is None or self._device.type != "cuda":
            return None
        import torch

        peak = torch.cuda.max_memory_allocated(self._device) / 2**20
        torch.cuda.reset_peak_memory_stats(self._device)
        return float(peak)

    @property
    def counted(self) -> list[StepRecord]:
        """The steps after the warm-up, or all if there are no others."""
        return self.records[self.warmup :] or self.records

    def table(self) -> str:
        """The table of the steps so far; a UserError if there are none."""
        if not self.records:
            raise UserError("the monitor has seen no step", hint="train with it: extensions=[TrainingMonitor()]")
        left_out = len(self.records) - len(self.counted)
        return table(self.counted, left_out, self._rate, self._measured_on)

    @hookimpl
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Print the table; write it and the picture into the run's folder."""
        if not self.records:
            return
        text = self.table()
        run.write_text("monitor.md", text)
        print(f"\n{text}", end="")
        places = [run.directory / "monitor.md"]
        if self.picture:
            try:
                places.append(self.draw(run.directory / "monitor.png"))
            except UserError as error:
                log.warning("the monitor drew no picture", error=error.what, hint=error.hint)
        print(f"written to {' and '.join(map(str, places))}", flush=True)

    def draw(self, path: Path) -> Path:
        """Write the picture of the steps so far; a UserError if matplotlib is missing."""
        return picture(self.records, path)
