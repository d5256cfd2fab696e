"""What the monitor shows: a table of phases, and a picture of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from dovetail.errors import UserError

COLUMNS = ("phase", "median ms", "share of step", "µs per token")


@attrs.frozen
class StepRecord:
    """One step: seconds by phase (``step`` is all of it), sampled tokens, memory, and the least seconds by phase."""

    step: int
    seconds: Mapping[str, float]
    tokens: float
    rss_mb: float
    device_mb: float | None = None  #: the allocator's peak within the step, on CUDA
    floor: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase, and of what belongs to none."""
        named = {name: value for name, value in self.seconds.items() if name != "step"}
        return {**named, "elsewhere": max(0.0, self.seconds["step"] - sum(named.values()))}


def table(steps: Sequence[StepRecord], left_out: int = 0, rate: float = 0.0, measured_on: str = "") -> str:
    """The table in Markdown, the longest phase first.

    The median is over the steps that have the phase, the other columns are over all steps: seconds of the phase by
    seconds of the steps, by sampled tokens, and of its floor by seconds of the phase.

    Args:
        steps: At least one.
        left_out: How many more there were.
        rate: FLOP/s that the floor was taken with.
        measured_on: What the rate is of.
    """
    tokens = sum(step.tokens for step in steps)
    whole = sum(step.seconds["step"] for step in steps)
    names = dict.fromkeys(name for step in steps for name in step.phases)
    times = {name: [step.phases[name] for step in steps if name in step.phases] for name in names}
    floors = {name: sum(step.floor.get(name, 0.0) for step in steps) for name in names}
    has_floor = any(floors.values())
    rows = [(*COLUMNS, "of its floor") if has_floor else COLUMNS]
    ordered = sorted(times, key=lambda name: -sum(times[name]))
    everything = {**{name: times[name] for name in ordered}, "step": [step.seconds["step"] for step in steps]}
    for name, seconds in everything.items():
        spent = sum(seconds)
        per_token = f"{spent / tokens * 1e6:.2f}" if tokens else "-"
        row = (name, f"{median(seconds) * 1e3:.2f}", f"{spent / whole:.1%}", per_token)
        least = sum(floors.values()) if name == "step" else floors[name]
        rows.append((*row, f"{least / spent:.1%}" if least and spent else "") if has_floor else row)
    lines = [_layout(rows), "", _summary(steps, left_out, tokens / whole)]
    if has_floor:
        lines.append(f"Floor: the FLOPs of the model's shape at {rate / 1e9:,.0f} GFLOP/s, measured: {measured_on}.")
    return "\n".join([*lines, ""])


def _layout(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [[name.ljust(widths[0]), *map(str.rjust, rest, widths[1:])] for name, *rest in rows]
    first, *others = ["| " + " | ".join(cells) + " |" for cells in aligned]
    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([first, rule, *others])


def _summary(steps: Sequence[StepRecord], left_out: int, speed: float) -> str:
    first = f" (and {left_out} of warm-up, left out)" if left_out else ""
    device = [step.device_mb for step in steps if step.device_mb is not None]
    peak = f", allocated on the device at most {max(device):,.0f} MB" if device else ""
    resident = max(step.rss_mb for step in steps)
    return f"{len(steps)} steps{first}; {speed:,.0f} tokens/s; RSS at most {resident:,.0f} MB{peak}."


def canvas(size: tuple[float, float]) -> Any:
    """An empty figure, inches wide and high; a UserError if matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise UserError("a picture needs matplotlib", hint='pip install "dovetail-benchmark[plot]"') from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(steps: Sequence[StepRecord], path: Path) -> Path:
    """Phases, tokens/s and memory by step, as an image; a UserError if matplotlib is missing."""
    figure = canvas((8, 7))
    numbers = [step.step for step in steps]
    phases, speed, memory = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    names = list(dict.fromkeys(name for step in steps for name in step.phases))
    bottom = [0.0] * len(steps)
    for name in names:
        heights = [step.phases.get(name, 0.0) * 1e3 for step in steps]
        phases.bar(numbers, heights, bottom=bottom, width=1.0, label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    phases.set(ylabel="ms", title="time of a step")
    phases.legend(fontsize="small")
    speed.plot(numbers, [step.tokens / step.seconds["step"] for step in steps], marker=".")
    speed.set(ylabel="tokens/s", ylim=(0, None))
    memory.plot(numbers, [step.rss_mb for step in steps], marker=".", label="RSS")
    if steps[-1].device_mb is not None:
        memory.plot(numbers, [step.device_mb or 0.0 for step in steps], marker=".", label="device, peak")
    memory.set(xlabel="step", ylabel="MB", ylim=(0, None))
    memory.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return path
