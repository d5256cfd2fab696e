"""Does every algorithm learn? A tiny model adds two-digit numbers: held-out accuracy before and after, by seed.

python benchmarks/learning.py --jobs 2 --out benchmarks/results/learning.md
python benchmarks/learning.py --seeds 0 1 --only grpo rloo

Each seed warms one model up by imitating demonstrators who are wrong four times in five, so that imitation can teach no
more; every algorithm starts from that same model, and its run ends once held-out accuracy has been higher than the start's
by the goal in two evaluations in succession. Warm-ups and results are kept in a folder, so that a stopped benchmark goes on,
and pieces of it can be run apart: what is there is not run again, but for runs that failed. The exit status is 1 if an
algorithm misses its goal with any seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from dovetail import hookimpl

GOAL = 0.25  # how much held-out accuracy must rise
HOLD = 2  # evaluations in succession that must show it
WRONG, WARM_UP = 0.8, 600  # share of wrong demonstrations, steps of imitation
SEEDS = [0, 1, 2, 3, 4]


@attrs.define(eq=False)
class Held:
    """Ends a run once held-out accuracy has been ``lift`` above its start for ``HOLD`` evaluations in succession."""

    lift: float
    _start: float | None = attrs.field(default=None, init=False)
    _times: int = attrs.field(default=0, init=False)

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        if (accuracy := metrics.get("eval/reward")) is None:
            return
        self._start = accuracy if self._start is None else self._start
        self._times = self._times + 1 if accuracy >= self._start + self.lift else 0
        if self._times == HOLD:
            run.stop(f"held-out accuracy is {accuracy:.3f}, {accuracy - self._start:+.3f}")


@attrs.frozen
class Row:
    """An algorithm and what its run is told beside the quickstart's second configuration.

    Args:
        algorithm: The whole ``algorithm`` entry of the configuration.
        settings: As for ``dovetail train --set``; ``{start}`` is the folder of the warmed-up model.
    """

    algorithm: dict[str, Any]
    settings: tuple[str, ...] = ()


def row(use: str, *settings: str, **options: Any) -> tuple[str, Row]:
    return use, Row({"use": use, **options}, settings)


# One line for each algorithm. Those that take one completion for a prompt get as many prompts as the others get rows.
MANY_PROMPTS = "batch_size=256"
# Two optimizer steps for a batch move ratios away from 1; each is half as long.
LR, SEVERAL_STEPS = "policy.optimizer.lr=3.5e-4", "policy.optimizer.lr=2e-4"
CRITIC = (
    "agents.value_model={{model: '{start}', head: value, optimizer: {{lr: 1.0e-3, warmup_steps: 10, "
    "max_grad_norm: 1.0, options: {{betas: [0.9, 0.95]}}}}}}"
)
ROWS = dict(
    [
        row("grpo", entropy_coef=0.01),
        row("dr-grpo", norm=4.0, entropy_coef=0.01),
        row("dapo", max_draws=3, entropy_coef=0.01),
        row("gspo", SEVERAL_STEPS, entropy_coef=0.01, minibatches=2),
        row("cispo", SEVERAL_STEPS, entropy_coef=0.01, minibatches=2),
        row("sapo", SEVERAL_STEPS, entropy_coef=0.01, minibatches=2),
        row("gmpo", SEVERAL_STEPS, entropy_coef=0.01, minibatches=2),
        row("gdpo", entropy_coef=0.01),
        row("maxrl", entropy_coef=0.01),
        row("kimi", SEVERAL_STEPS, entropy_coef=0.01, minibatches=2),
        row("reinforce", MANY_PROMPTS, entropy_coef=0.01),
        row("reinforce-plus-plus", MANY_PROMPTS, entropy_coef=0.01),
        row("reinforce-plus-plus-baseline", entropy_coef=0.01),
        row("rloo", entropy_coef=0.01),
        row("remax", MANY_PROMPTS, entropy_coef=0.01),
        row("opo", entropy_coef=0.01),
        row("clip-cov", SEVERAL_STEPS, entropy_coef=0.01, minibatches=2, share=0.002, low=0.5),
        row("kl-cov", SEVERAL_STEPS, entropy_coef=0.01, minibatches=2, share=0.002),
        row("ppo", MANY_PROMPTS, SEVERAL_STEPS, CRITIC, entropy_coef=0.01, epochs=2),
        row("a2c", MANY_PROMPTS, CRITIC, entropy_coef=0.01),
        # Scaled down to completions of four tokens: λ is 0.75 there.
        row(
            "vapo", SEVERAL_STEPS, CRITIC, entropy_coef=0.01, samples=8, minibatches=2, value_pretraining=10, length_alpha=1.0
        ),
    ]
)  # fmt: skip


def warm_up(seed: int, folder: Path) -> None:
    """The model that all algorithms of a seed start from; a warm-up that was cut off begins anew."""
    import shutil
    from importlib.resources import files

    from dovetail_quickstart.command import place_paths
    from dovetail_trainer.config.build import build
    from dovetail_trainer.config.load import load

    if (folder / "warm").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("warmup.yaml", "grpo.yaml"):
        shutil.copy(str(files("dovetail_quickstart") / name), folder / name)
    place_paths(folder)
    settings = [f"seed={seed}", f"policy.tiny.seed={seed}", "loggers=[]", "extensions=[]", f"steps={WARM_UP}"]
    config = load(folder / "warmup.yaml", [*settings, "evaluate_every=0"])
    assert config.data is not None
    assert config.environment is not None
    demonstrate(Path(config.data.path), config.environment.options, seed)
    build(config, run_dir=folder / "warmup").fit(config.steps)
    (folder / "warm").touch()


def demonstrate(path: Path, options: Mapping[str, Any], seed: int) -> None:
    """The environment's training problems with answers, of which a share has units (written first) one too high."""
    import dovetail as dt

    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for task in dt.environments.math(**options).call("tasks", {"split": "train"}):
            units = (int(task.answer[0]) + (draw.random() < WRONG)) % 10
            row = {"prompt": task.messages[0].content, "completion": f"{units}{task.answer[1:]}"}
            file.write(json.dumps(row) + "\n")


def run(name: str, seed: int, folder: Path, steps: int) -> None:
    """One algorithm from the warmed-up model of a seed, until the goal is held or the steps are out."""
    import shutil

    from dovetail.errors import DovetailError
    from dovetail_quickstart.command import train

    result = folder / f"{name}.json"
    if "after" in _read(result):  # a run that failed is tried again
        return
    shutil.rmtree(folder / name, ignore_errors=True)
    algorithm = ", ".join(f"{key}: {value}" for key, value in ROWS[name].algorithm.items())
    overrides = ["loggers=[]", f"algorithm={{{algorithm}}}", f"steps={steps}", "checkpoint_every=0", "rollouts_every=0"]
    overrides += [f"extensions=[{{use: '{Path(__file__).resolve()}:Held', lift: {GOAL}}}]", "evaluate_every=10", LR]
    overrides += [setting.format(start=folder / "warmup/final") for setting in ROWS[name].settings]
    try:
        stage = attrs.asdict(train(folder / "grpo.yaml", seed, overrides, name=name))
    except DovetailError as error:
        stage = {"failed": error.what}
    _write(result, {"machine": _machine(), **stage})
    gain = f"{stage['after'] - stage['before']:+.3f} in {stage['steps']} steps" if "after" in stage else stage["failed"]
    print(f"{name}, seed {seed}: {gain}", flush=True)


def _write(path: Path, told: Mapping[str, Any]) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(told), encoding="utf-8")
    aside.replace(path)


def _machine() -> str:
    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, one thread for each run, {versions}"


def table(names: Iterable[str], seeds: list[int], folder: Path) -> tuple[list[str], bool]:
    """Lines of Markdown, and whether every goal is met by what is there."""
    lines = ["| algorithm | start | least gain | mean gain | steps, by seed | seconds, mean | goal met |"]
    lines.append("|---|" + "---|" * 6)
    whole = True
    for name in names:
        found = [_read(folder / str(seed) / f"{name}.json") for seed in seeds]
        runs = [result for result in found if "after" in result]
        gains = [result["after"] - result["before"] for result in runs]
        met = sum(gain >= GOAL for gain in gains)
        whole &= met == len(seeds)
        starts = f"{statistics.fmean(result['before'] for result in runs):.3f}" if runs else "–"
        least, mean = (f"{min(gains):+.3f}", f"{statistics.fmean(gains):+.3f}") if gains else ("–", "–")
        steps = ", ".join(str(result.get("steps", "failed" if result else "–")) for result in found)
        seconds = f"{statistics.fmean(result['seconds'] for result in runs):.0f}" if runs else "–"
        lines.append(f"| `{name}` | {starts} | {least} | {mean} | {steps} | {seconds} | {met} of {len(seeds)} |")
    return lines, whole


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def page(lines: list[str], folder: Path) -> str:
    """The table with what it ran on and what it means."""
    machines = sorted({_read(path).get("machine", "") for path in folder.glob("*/*.json")} - {""})
    return "\n".join(
        [
            "# Does every algorithm learn?",
            "",
            *[f"{machine}." for machine in machines],
            "",
            "    python benchmarks/learning.py",
            "",
            *lines,
            "",
            "The task (two-digit addition) and the model of 0.1 million parameters are the quickstart's. Each seed has a",
            f"warm-up of its own, shared by all algorithms: {WARM_UP} steps of imitation of demonstrators whose units are one",
            f"too high in {WRONG:.0%} of all answers, so that imitation can teach no more, and rewards must. Accuracy is greedy",
            f"and exact on 500 held-out problems, evaluated every 10 steps. A run ends once accuracy has been {GOAL} above",
            f"the start in {HOLD} evaluations in succession, or after 1,000 steps: the gain is what was asked for, not the most",
            "that an algorithm can reach, and the steps compare settings as well as algorithms. A step is one batch of 256",
            "completions, however many optimizer steps it gives; `remax` draws as many again, greedily, and `dapo` up to three",
            "times as many.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=1000, help="most steps of a run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"), help="keeps warm-ups and results")
    parser.add_argument("--out", type=Path, help="where the page is written")
    parser.add_argument("--table", action="store_true", help="run nothing; tell what is there")
    arguments = parser.parse_args()
    folders = {seed: arguments.folder / str(seed) for seed in arguments.seeds}
    if not arguments.table:
        with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(warm_up, folders, folders.values()))
            work = [(name, seed, folders[seed], arguments.steps) for name in arguments.only for seed in folders]
            list(pool.map(run, *zip(*work, strict=True)))
    lines, whole = table(arguments.only, arguments.seeds, arguments.folder)
    text = page(lines, arguments.folder)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
