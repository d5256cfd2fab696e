"""Does every algorithm learn? A tiny model adds two-digit numbers: held-out accuracy before and after, by seed.

python benchmarks/learning.py --seeds 0 1 2 3 4
python benchmarks/learning.py --seeds 0 --only grpo rloo

Each seed warms one model up by imitation; every algorithm starts from that same model. One process and one thread for
each run; the exit status is 1 if an algorithm misses its goal with any seed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

from dovetail.errors import DovetailError
from dovetail_quickstart.command import Stage, train, warm_up

GOAL = 0.25
ENOUGH = 0.8  # accuracy at which a run stops: above every start by more than the goal


@attrs.frozen
class Row:
    """An algorithm and what its run is told beside the quickstart's second configuration.

    Args:
        algorithm: The whole ``algorithm`` entry of the configuration.
        settings: As for ``dovetail train --set``.
        goal: How much held-out accuracy must rise over the start.
    """

    algorithm: dict[str, Any]
    settings: tuple[str, ...] = ()
    goal: float = GOAL


def row(use: str, *settings: str, **options: Any) -> tuple[str, Row]:
    return use, Row({"use": use, **options}, settings)


# One line for each algorithm. Those that take one completion for a prompt get as many prompts as the others get rows.
MANY_PROMPTS = ("batch_size=256",)
# Two optimizer steps for a batch move ratios away from 1; each is half as long.
SEVERAL_STEPS = "policy.optimizer.lr=3.5e-4"
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
        row("reinforce", *MANY_PROMPTS, entropy_coef=0.01),
        row("reinforce-plus-plus", *MANY_PROMPTS, entropy_coef=0.01),
        row("reinforce-plus-plus-baseline", entropy_coef=0.01),
        row("rloo", entropy_coef=0.01),
        row("opo", entropy_coef=0.01),
    ]
)


def run(name: str, seed: int, folder: Path, steps: int) -> Stage:
    """One algorithm from the warmed-up model of a seed, until it is right ENOUGH or out of steps."""
    chosen = ROWS[name]
    algorithm = ", ".join(f"{key}: {value}" for key, value in chosen.algorithm.items())
    overrides = ["loggers=[]", f"algorithm={{{algorithm}}}", f"steps={steps}", "checkpoint_every=0"]
    overrides += [f"extensions[0].at_least={ENOUGH}", *chosen.settings]
    return train(folder / "grpo.yaml", seed, overrides, name=name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=1000, help="most steps of a run")
    arguments = parser.parse_args()
    print("| algorithm | seed | start | end | gain | steps | seconds |\n|---|---|---|---|---|---|---|", flush=True)
    gains: dict[str, list[float]] = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory() as root:
        for seed in arguments.seeds:
            folder = Path(root) / str(seed)
            warm_up(folder, seed, quiet=True)
            for name in arguments.only:
                try:
                    stage = run(name, seed, folder, arguments.steps)
                except DovetailError as error:
                    gains[name].append(float("-inf"))
                    print(f"| {name} | {seed} | failed: {error.what} | | | | |", flush=True)
                    continue
                gains[name].append(stage.after - stage.before)
                print(
                    f"| {name} | {seed} | {stage.before:.3f} | {stage.after:.3f} | {gains[name][-1]:+.3f} | "
                    f"{stage.steps} | {stage.seconds:.0f} |",
                    flush=True,
                )
    print("\n| algorithm | mean gain | least gain | goal | met |\n|---|---|---|---|---|")
    missed = [name for name in arguments.only if min(gains[name]) < ROWS[name].goal]
    for name in arguments.only:
        met = "no" if name in missed else "yes"
        mean, least = statistics.fmean(gains[name]), min(gains[name])
        print(f"| {name} | {mean:+.3f} | {least:+.3f} | {ROWS[name].goal:+.2f} | {met} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
