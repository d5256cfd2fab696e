"""Progress on standard error: a live bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import ge

from dovetail import hookimpl

_SHORT = {"tokens_per_second": "tok/s", "completion_length": "length", "kl_to_sampler": "kl"}


@attrs.define(eq=False)
class Console:
    """Shows chosen metrics.

    Args:
        metrics: Which, in order; those that a run does not have are left out.
        every: Steps between plain lines, evaluations and the last step apart; the bar follows every step.
    """

    metrics: tuple[str, ...] = attrs.field(
        default=("reward", "eval/reward", "loss", "completion_length", "invalid", "tokens_per_second"), converter=tuple
    )
    every: int = attrs.field(default=1, validator=ge(1))
    _run: Any = attrs.field(default=None, init=False)
    _bar: Any = attrs.field(default=None, init=False)
    _task: Any = attrs.field(default=None, init=False)
    _console: Any = attrs.field(default=None, init=False)
    _last_evaluation: dict[str, float] = attrs.field(factory=dict, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Open the bar if standard error is a terminal."""
        from rich.console import Console as RichConsole

        self._run = run
        self._console = self._console or RichConsole(file=sys.stderr)
        if self._console.is_terminal:
            self._bar = _bar(self._console)
            self._task = self._bar.add_task(run.name, total=run.steps, completed=run.step, numbers="")
            self._bar.start()

    @hookimpl
    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line."""
        self._last_evaluation.update({name: value for name, value in metrics.items() if name.startswith("eval/")})
        text = self._text({**self._last_evaluation, **metrics})
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=text)
        elif self._is_due(step, metrics):
            total = f"/{self._run.steps}" if self._run else ""
            print(f"step {step}{total}  {text}", file=self._console.file if self._console else sys.stderr, flush=True)

    def _is_due(self, step: int, metrics: Mapping[str, float]) -> bool:
        is_last = self._run is not None and step == self._run.steps
        return step % self.every == 0 or is_last or any(name.startswith("eval/") for name in metrics)

    def _text(self, metrics: Mapping[str, float]) -> str:
        shown = [name for name in self.metrics if name in metrics and metrics[name] == metrics[name]]
        return "  ".join(f"{_SHORT.get(name, name)} {_number(metrics[name])}" for name in shown)

    @hookimpl
    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # The numbers wrap in the room that is left; otherwise a narrow terminal shows them and drops the bar.
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(ratio=1)),
        console=console,
        expand=True,
        speed_estimate_period=3600,  # a step may well take longer than rich's 30 s, and would leave no estimate
        redirect_stdout=sys.stdout.isatty(),  # what goes to a file must not turn up on standard error
    )
