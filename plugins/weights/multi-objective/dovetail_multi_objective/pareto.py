"""Which trade-offs between its rewards a run has reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import attrs
from attrs.validators import ge

from dovetail import UserError, hookimpl


@attrs.frozen
class Stretch:
    """Consecutive steps: for each reward the mean of its step means, and the standard error of that mean."""

    first: int
    last: int
    means: Mapping[str, float]
    errors: Mapping[str, float]


@attrs.define(eq=False)
class Pareto:
    """Prints and writes (``pareto.md``) the stretches of a run that no other one beats in every reward.

    A stretch is Pareto optimal if no other is at least as good in every reward and better in one. Rewards count as the
    parts gave them, without weight or normalisation; of one with a negative weight, less is better. Means of few steps
    are noisy, and noise makes more of them look optimal: the table shows their standard error.

    Args:
        window: Steps whose means make one stretch. Usual: a twentieth of the run.
        rewards: Names in the metrics, such as ``length``; none means all. With many rewards hardly anything is beaten.
    """

    window: int = attrs.field(default=10, validator=ge(1))
    rewards: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    _steps: dict[int, dict[str, float]] = attrs.field(factory=dict, init=False)
    _signs: dict[str, int] = attrs.field(factory=dict, init=False)

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Note the mean of each reward."""
        found = {name.removeprefix("reward/"): value for name, value in metrics.items() if name.startswith("reward/")}
        chosen = {name: value for name, value in found.items() if not self.rewards or name in self.rewards}
        missing = sorted(set(self.rewards) - found.keys())
        if found and missing:
            problem = f"pareto: no reward of this run is called {missing[0]!r}"
            raise UserError(problem, hint=f"its rewards are {', '.join(sorted(found))}")
        if chosen and all(map(math.isfinite, chosen.values())):
            self._steps[step] = chosen
            self._signs = {name: -1 if metrics.get(f"weight/{name}", 1.0) < 0 else 1 for name in chosen}

    @hookimpl
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Print the table and leave it in the run's folder."""
        if self._steps:
            text = table(self.stretches(), self._signs)
            run.write_text("pareto.md", text)
            print(text)

    def stretches(self) -> list[Stretch]:
        """Means over ``window`` steps each; the last one may be shorter."""
        steps = sorted(self._steps)
        pieces = [steps[start : start + self.window] for start in range(0, len(steps), self.window)]
        return [_stretch(piece, [self._steps[step] for step in piece]) for piece in pieces]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": dict(self._steps), "signs": dict(self._signs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._signs = dict(state["steps"]), dict(state["signs"])


def _stretch(steps: Sequence[int], rows: Sequence[Mapping[str, float]]) -> Stretch:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    errors = {
        name: stdev(column) / math.sqrt(len(column)) if len(column) > 1 else 0.0 for name, column in columns.items()
    }
    return Stretch(steps[0], steps[-1], {name: fmean(column) for name, column in columns.items()}, errors)


def optimal(stretches: Sequence[Stretch], signs: Mapping[str, int]) -> list[Stretch]:
    """Those that no other one dominates, in their order."""
    points = [[sign * stretch.means[name] for name, sign in signs.items()] for stretch in stretches]
    return [stretch for stretch, point in zip(stretches, points, strict=True) if not _is_dominated(point, points)]


def _is_dominated(point: Sequence[float], points: Sequence[Sequence[float]]) -> bool:
    return any(
        other != point and all(theirs >= mine for theirs, mine in zip(other, point, strict=True)) for other in points
    )


def table(stretches: Sequence[Stretch], signs: Mapping[str, int]) -> str:
    """The Pareto optimal stretches in Markdown."""
    best = optimal(stretches, signs)
    names = [f"{name} {'↑' if sign > 0 else '↓'}" for name, sign in signs.items()]
    rows = [["steps", *names], ["---", *["--:"] * len(names)]]
    for stretch in best:
        numbers = [f"{stretch.means[name]:.4g} ± {stretch.errors[name]:.2g}" for name in signs]
        rows.append([f"{stretch.first}-{stretch.last}", *numbers])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    summary = (
        f"Pareto optimal: {len(best)} of {len(stretches)} stretches of the run; ± is the standard error of a mean."
    )
    return "\n".join([*lines, "", summary, ""])
