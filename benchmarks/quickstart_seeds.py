"""The quickstart over several seeds, and a control whose rewards are shuffled: it must not learn.

python benchmarks/quickstart_seeds.py --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import dovetail as dt
from dovetail_quickstart.command import Stage, stages, train


@dt.op
def shuffled(rewards: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The same rewards, given to the wrong samples."""
    return rewards[torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))]


@dt.algorithm(using=dt.recipes.grpo)
def control(graph: Any) -> None:
    """grpo on shuffled rewards."""
    graph.rewards.replace_with(shuffled(graph.rewards))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    print(
        "| run | warm-up s | warm-up accuracy | steps | seconds | final accuracy |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            print_row(f"seed {seed}", *stages(Path(folder) / str(seed), seed, quiet=True))
        first = Path(folder) / str(arguments.seeds[0])
        overrides = [f"policy.model={first / 'warmup' / 'final'}", "loggers=[]", "steps=200"]
        shuffled_stage = train(first / "grpo.yaml", arguments.seeds[0], overrides, control, name="control")
        print_row("shuffled rewards", None, shuffled_stage)


def print_row(name: str, warmup: Stage | None, grpo: Stage) -> None:
    before = f"{warmup.seconds:.1f} | {warmup.after:.3f}" if warmup else f"| {grpo.before:.3f}"
    print(f"| {name} | {before} | {grpo.steps} | {grpo.seconds:.1f} | {grpo.after:.3f} |", flush=True)


if __name__ == "__main__":
    main()
