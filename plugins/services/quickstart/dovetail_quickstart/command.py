"""Train a tiny model to add two numbers: supervised warm-up, then GRPO. No download, about a minute."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs

from dovetail import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--folder", default="quickstart", help="where everything is written")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the samples")


@attrs.frozen
class Stage:
    """What one of the two runs came to."""

    name: str
    steps: int
    seconds: float
    before: float
    after: float
    tokens_per_second: float


def run(arguments: argparse.Namespace) -> int:
    """Run both stages, then print a table, samples and the next step.

    Raises:
        UserError: The folder holds something already.
    """
    from dovetail_quickstart.report import print_report
    from dovetail_trainer.cli.train import configure_logging

    folder = Path(arguments.folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"the folder {folder} is not empty", hint="remove it, or give another --folder")
    configure_logging()
    warmup, grpo = stages(folder, arguments.seed)
    print_report(folder, [warmup, grpo])
    return 0


def stages(folder: Path, seed: int, *, quiet: bool = False) -> tuple[Stage, Stage]:
    """Both runs, with the configurations of this package, copied into the folder.

    Args:
        folder: Where they are written.
        seed: Of both runs and of the weights.
        quiet: Without progress.
    """
    return warm_up(folder, seed, quiet=quiet), train(folder / "grpo.yaml", seed, ["loggers=[]"] if quiet else [])


def warm_up(folder: Path, seed: int, *, quiet: bool = False) -> Stage:
    """The first run alone; the second one's configuration lies ready in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("warmup.yaml", "grpo.yaml"):
        shutil.copy(str(files("dovetail_quickstart") / name), folder / name)
    silence = ["loggers=[]"] if quiet else []
    place_paths(folder)
    return train(folder / "warmup.yaml", seed, [f"policy.tiny.seed={seed}", *silence])


def place_paths(folder: Path) -> None:
    """Let the copies name their files as seen from here, so that ``dovetail train`` runs them as they are."""
    for name, file in (("grpo.yaml", "warmup/final"), ("warmup.yaml", "demonstrations.jsonl")):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(file, (folder / file).as_posix()), encoding="utf-8")


def train(config_file: Path, seed: int, overrides: list[str], algorithm: Any = None, name: str | None = None) -> Stage:
    """One ordinary run of a configuration.

    Args:
        config_file: In the folder that the run's folder is made in.
        seed: Of the run.
        overrides: As for ``dovetail train --set``.
        algorithm: A recipe in the place of the configured one, for controls.
        name: Of the run's folder; by default that of the configuration.
    """
    from dovetail_trainer.config.build import build
    from dovetail_trainer.config.load import load

    folder = config_file.parent
    config = load(config_file, [f"seed={seed}", *overrides])
    if config.data is not None and config.environment is not None:
        write_demonstrations(Path(config.data.path), config.environment.options)
    started = time.perf_counter()
    trainer = build(config, run_dir=folder / (name or config_file.stem), algorithm=algorithm)
    trainer.fit(config.steps)
    if config.loggers and trainer.run.stop_reason:
        print(f"{trainer.run.name} is done before its {config.steps} steps: {trainer.run.stop_reason}")
    return _stage(trainer, time.perf_counter() - started)


def _stage(trainer: Any, seconds: float) -> Stage:
    lines = [json.loads(line) for line in (trainer.run.directory / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line["metrics"]["eval/reward"] for line in lines if "eval/reward" in line["metrics"]]
    speeds = sorted(line["timing"]["tokens_per_second"] for line in lines if "tokens_per_second" in line["timing"])
    return Stage(trainer.run.name, trainer.run.step, seconds, evaluations[0], evaluations[-1], speeds[len(speeds) // 2])


def write_demonstrations(path: Path, options: Any) -> None:
    """The environment's training problems with their answers, as rows for sft."""
    from dovetail import environments

    tasks = environments["math"](**options).call("tasks", {"split": "train"})
    rows = ({"prompt": task.messages[0].content, "completion": task.answer} for task in tasks)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
