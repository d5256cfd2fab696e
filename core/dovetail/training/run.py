"""A run's folder: metrics, rollouts and invalid samples as JSON lines, and what lifecycle hooks are given."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from dovetail.errors import UserError
from dovetail.ragged import Ragged
from dovetail.rollouts import RewardStatus, Rollouts

TIMING = ("time/", "tokens_per_second", "rss_mb")


class Run:
    """A run in progress, as lifecycle hooks see it.

    Attributes:
        directory: Where everything is written.
        name: Of the recipe.
        step: Steps done.
        steps: Steps planned.
        stop_reason: Set by :meth:`stop`.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.step = 0
        self.steps = 0
        self.stop_reason: str | None = None
        self._metrics: TextIO | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / ".writable").touch()
            (directory / ".writable").unlink()
        except OSError as error:
            raise UserError(
                f"the run folder {directory} cannot be written: {error.strerror}", hint="choose another run_dir"
            ) from error

    def stop(self, reason: str) -> None:
        """End the run after this step; it counts as done, not failed."""
        self.stop_reason = reason

    def rewind(self, step: int) -> None:
        """Forget what was written after ``step``, so that a resumed run leaves no line twice."""
        self.step = step
        path = self.directory / "metrics.jsonl"
        if path.exists():
            kept = [line for line in complete_lines(path) if json.loads(line)["step"] <= step]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        for folder in ("rollouts", "invalid"):
            for file in (self.directory / folder).glob("step-*.jsonl"):
                if int(file.stem.partition("-")[2]) > step:
                    file.unlink()

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line; timings stand apart, because they alone differ between two equal runs."""
        if self._metrics is None:
            self._metrics = (self.directory / "metrics.jsonl").open("a", encoding="utf-8")
        timing = {name: value for name, value in metrics.items() if name.startswith(TIMING)}
        numbers = {name: value for name, value in metrics.items() if name not in timing}
        line = {"step": step, "metrics": _json_numbers(numbers), "timing": _json_numbers(timing)}
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()

    def write_rollouts(self, step: int, rollouts: Rollouts, extra: Mapping[str, Any]) -> None:
        """Write the samples of a step; ``extra`` holds the total rewards and advantages."""
        _write_lines(self._file("rollouts", step), rollout_lines(rollouts, extra))

    def write_invalid(self, step: int, rollouts: Rollouts) -> Path | None:
        """Write the samples that have no valid reward, each with what is needed to score it again."""
        bad = [row for row in range(len(rollouts)) if any(not bool(s.valid[row]) for s in rollouts.rewards.values())]
        if not bad:
            return None
        path = self._file("invalid", step)
        _write_lines(path, rollout_lines(rollouts.select(bad), {}))
        return path

    def _file(self, folder: str, step: int) -> Path:
        path = self.directory / folder / f"step-{step:06d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        return path

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def default_run_dir(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def complete_lines(path: Path) -> list[str]:
    """Lines of a file; one that a kill cut short is left out."""
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def rollout_lines(rollouts: Rollouts, extra: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """One mapping for each sequence: prompt, completion, scores with their status, and the task."""
    reward, advantage = extra.get("reward"), extra.get("advantage")
    decode = rollouts.decode
    for row in range(len(rollouts)):
        task = rollouts.tasks[row]
        yield {
            "task": task.id,
            "group": int(rollouts.groups[row]),
            "prompt": decode(rollouts.prompts[row].tolist()) if decode else "",
            "completion": rollouts.texts[row] if decode else "",
            "answer": task.answer if isinstance(task.answer, str | int | float | bool | None) else str(task.answer),
            "columns": {name: str(value) for name, value in task.columns.items()},
            "rewards": {
                name: {
                    "value": _json_number(float(scores.values[row])),
                    "status": RewardStatus(int(scores.status[row])).name,
                    "reason": scores.reasons.get(row, ""),
                }
                for name, scores in rollouts.rewards.items()
            },
            "reward": _json_number(float(reward[row])) if reward is not None else None,
            "advantage": _row_mean(advantage, row),
            "finish_reason": rollouts.finish_reasons[row] if rollouts.finish_reasons else "",
            "tokens": len(rollouts.completions[row]),
            "policy_version": rollouts.policy_version,
        }


def _row_mean(values: Ragged | None, row: int) -> float | None:
    return None if values is None or not len(values[row]) else _json_number(float(values[row].mean()))


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _json_numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _json_number(value) for name, value in values.items()}


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
