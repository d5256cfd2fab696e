"""Running a plan: stage after stage, each where an earlier process left it."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from dovetail.errors import DovetailError, UserError
from dovetail_rlhf.reading import RECORD
from dovetail_rlhf.stages import Plan, Stage, StepConfig
from dovetail_trainer.config.schema import RunConfig
from dovetail_trainer.samples import number
from dovetail_trainer.writing import write_text

DONE = "stage.json"


@attrs.frozen
class Pipeline:
    """A plan that is carried out. ``tell`` is given a line for each thing that a user may want to know."""

    plan: Plan
    tell: Callable[[str], None] = print
    ignore_lock: bool = False

    def _claim(self) -> None:
        directory = self.plan.directory
        if (directory / RECORD).exists():
            hint = f"continue it with --resume {directory}, or choose another run_dir"
            raise UserError(f"{directory} holds a pipeline already", hint=hint)
        directory.mkdir(parents=True, exist_ok=True)
        saved = {"folder": str(self.plan.folder), "words": self.plan.words}
        write_text(directory / RECORD, json.dumps(saved, indent=2, ensure_ascii=False, default=str) + "\n")

    def run(self) -> dict[str, dict[str, Any]]:
        """Go through all stages that are not done; gives the figures of each.

        Whatever error ends it names the stage; what is done stays, and ``report.html`` tells what is known. A folder in
        which another pipeline was begun is a UserError.
        """
        if not self.plan.is_begun:
            self._claim()
        found: dict[str, dict[str, Any]] = {}
        count = len(self.plan.stages)
        for place, stage in enumerate(self.plan.stages, start=1):
            if stage.config is None:
                self.tell(f"[{place}/{count}] {stage.name}: {stage.about}")
                continue
            if (stage.folder / DONE).exists():
                self.tell(f"[{place}/{count}] {stage.name}: done before")
            else:
                self.tell(f"[{place}/{count}] {stage.name}: {stage.about}")
                self._run(stage)
                self.tell(f"[{place}/{count}] {stage.name}: {summary(_done(stage))}")
            found[stage.name] = _done(stage)["figures"]
        return found

    def _run(self, stage: Stage) -> None:
        started, failure = time.perf_counter(), ""
        try:
            figures = run_stage(stage, ignore_lock=self.ignore_lock)
            told = {name: number(value) if isinstance(value, float) else value for name, value in figures.items()}
            done = {"stage": stage.name, "figures": told, "seconds": round(time.perf_counter() - started, 1)}
            write_text(stage.folder / DONE, json.dumps(done, indent=2) + "\n")
        except BaseException as error:
            failure = str(error) or type(error).__name__
            if isinstance(error, DovetailError):
                place = f"the stage {stage.name!r}; go on with: dovetail pipeline --resume {self.plan.directory}"
                error.where += (place,)
            raise
        finally:
            gc.collect()
            self.report({stage.name: failure} if failure else {})

    def report(self, failed: dict[str, str] | None = None) -> Path:
        """Write ``report.html`` anew."""
        from dovetail_rlhf.report import page

        path = self.plan.directory / "report.html"
        write_text(path, page(self.plan, failed or {}))
        return path


def run_stage(stage: Stage, *, ignore_lock: bool = False) -> dict[str, Any]:
    """Carry out one stage, or go on with it; gives its figures."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    if isinstance(stage.config, StepConfig):
        figures: dict[str, Any] = stage.config.step.make(stage.config, stage.folder)
        return figures
    assert stage.config is not None
    return _train(stage.config, stage.folder, ignore_lock=ignore_lock)


def _train(config: RunConfig, folder: Path, *, ignore_lock: bool) -> dict[str, Any]:
    from dovetail_trainer.config.build import build
    from dovetail_trainer.trainer import Trainer

    is_begun = (folder / "config.json").exists()
    trainer = Trainer.resume(folder, ignore_lock=ignore_lock) if is_begun else build(config, run_dir=folder)
    trainer.fit(config.steps)
    figures: dict[str, Any] = {"steps": trainer.run.step}
    if trainer.run.stop_reason:
        figures["stopped"] = trainer.run.stop_reason
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        figures.update(json.loads(line)["metrics"])
    return figures


def _done(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage.folder / DONE).read_text(encoding="utf-8"))
    return found


def summary(done: dict[str, Any]) -> str:
    """The figures of a stage on one line, what one looks at first in front."""
    from dovetail_rlhf.report import FIRST

    numbers = {name: value for name, value in done["figures"].items() if isinstance(value, int | float)}
    chosen = sorted(numbers, key=lambda name: not FIRST.fullmatch(name))[:12]
    return f"{', '.join(f'{name} {numbers[name]:.4g}' for name in chosen)} ({done['seconds']:.0f} s)"
