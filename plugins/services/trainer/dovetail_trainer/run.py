"""A run's folder: metrics, rollouts and invalid samples as JSON lines, and what lifecycle hooks are given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from dovetail.errors import UserError
from dovetail.ragged import Ragged
from dovetail.rollouts import Rollouts, Scores
from dovetail_trainer.adjust import adjust, option
from dovetail_trainer.samples import number, sample_rows
from dovetail_trainer.writing import write_text

TIMING = ("time/", "tokens_per_second", "rss_mb")


@attrs.define(eq=False)
class Run:
    """A run in progress, as lifecycle hooks see it."""

    directory: Path  #: where everything is written
    name: str  #: of the recipe
    step: int = attrs.field(default=0, init=False)  #: steps done
    steps: int = attrs.field(default=0, init=False)  #: steps planned
    compiled: Any = attrs.field(default=None, init=False)  #: what runs: its graph, its plan
    agents: Mapping[str, Any] = attrs.field(factory=dict, init=False)  #: by input name
    batches: Any = attrs.field(default=None, init=False)  #: the tasks or rows, and how each step draws from them
    stop_reason: str | None = attrs.field(default=None, init=False)  #: set by :meth:`stop`
    _is_ours: bool = attrs.field(default=False, init=False)
    _added: dict[str, float] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / ".writable").touch()
            (self.directory / ".writable").unlink()
        except OSError as error:
            problem = f"the run folder {self.directory} cannot be written: {error.strerror}"
            raise UserError(problem, hint="choose another run_dir") from error

    def claim(self) -> None:
        """Refuse a folder that holds another run, whose lines and checkpoints would mix with this one's."""
        if not self._is_ours and (self.directory / "config.json").exists():
            hint = f"continue it with --resume {self.directory}, or choose another run_dir"
            raise UserError(f"{self.directory} holds a run already", hint=hint)
        self._is_ours = True

    def stop(self, reason: str) -> None:
        """End the run after this step; it counts as done, not failed."""
        self.stop_reason = reason

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Give numbers that are logged with the step's own; to be called from ``on_rollouts``."""
        self._added.update(metrics)

    def take_metrics(self) -> dict[str, float]:
        """What has been added since it was last taken."""
        added, self._added = self._added, {}
        return added

    def option(self, node: str, name: str) -> Any:
        """The value of an option of a node of the recipe, such as ``("advantages", "kl_coef")``."""
        return option(self.compiled, node, name)

    def adjust(self, node: str, **options: Any) -> None:
        """Set options of a node from the next step on, such as a coefficient, or the temperature of ``completions``.

        What was set is not part of a checkpoint: a part that adjusts has a ``state_dict``, and adjusts again in
        ``on_run_start``. A RecipeError tells what cannot be changed while a run is under way.
        """
        adjust(self.compiled, node, **options)

    def rewind(self, step: int) -> None:
        """Forget what was written after ``step``, so that a resumed run leaves no line twice."""
        self.step, self._is_ours = step, True
        metrics = self.directory / "metrics.jsonl"
        if metrics.exists():
            *lines, _cut_short = metrics.read_text(encoding="utf-8").split("\n")
            # A run that begins again evaluates again before its first step.
            kept = [line + "\n" for line in lines if 0 < step >= json.loads(line)["step"]]
            self.write_text("metrics.jsonl", "".join(kept))
        for folder in ("rollouts", "invalid"):
            for file in (self.directory / folder).glob("step-*.jsonl"):
                if int(file.stem.removeprefix("step-")) > step:
                    file.unlink()

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that a kill leaves the old one or the new one, never half of it."""
        write_text(self.directory / name, text)

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line; timings stand apart, because they alone differ between two equal runs."""
        numbers = {name: number(value) for name, value in metrics.items()}
        timing = {name: numbers.pop(name) for name in metrics if name.startswith(TIMING)}
        self._write_lines("metrics.jsonl", [{"step": step, "metrics": numbers, "timing": timing}], mode="a")

    def write_rollouts(self, step: int, rollouts: Rollouts, total: Scores | None, advantages: Ragged | None) -> None:
        """Write the samples of a step."""
        self._write_lines(f"rollouts/step-{step:06d}.jsonl", sample_rows(rollouts, total, advantages))

    def write_invalid(self, step: int, rollouts: Rollouts) -> Path | None:
        """Write the samples that have no valid reward, each with what is needed to score it again."""
        failed = torch.zeros(len(rollouts), dtype=torch.bool)
        for scores in rollouts.rewards.values():
            failed |= ~scores.valid
        if not failed.any():
            return None
        return self._write_lines(f"invalid/step-{step:06d}.jsonl", sample_rows(rollouts.select(failed)))

    def _write_lines(self, name: str, lines: Iterable[Mapping[str, Any]], mode: str = "w") -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return path
