"""What the quickstart shows at its end: a table, a learning curve, samples, and the way to a real model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail_quickstart.command import Stage

NEXT = (
    "dovetail train {config} --set policy.model=Qwen/Qwen2.5-0.5B-Instruct --set policy.optimizer.lr=1e-6 \\\n"
    "    --set environment.notation=plain --set environment.final_answer=last_number --set sampling.max_tokens=256 \\\n"
    "    --set threads=null"
)


def print_report(folder: Path, stages: Sequence[Stage]) -> None:
    """Print the table and three samples; write the picture."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="held-out problems solved, greedily and exactly")
    for column in ("stage", "steps", "before", "after", "seconds", "tokens/s"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        table.add_row(
            stage.name, str(stage.steps), f"{stage.before:.3f}", f"{stage.after:.3f}", f"{stage.seconds:.1f}",
            f"{stage.tokens_per_second:.0f}",
        )  # fmt: skip
    console.print(table)
    _print_samples(folder / "grpo", console)
    picture = draw_curve(folder)
    console.print(f"\nlearning curve: {picture}\nall samples:    dovetail rollouts {folder / 'grpo'}")
    print(f"\nthe same on a real model (a GPU helps):\n{NEXT.format(config=folder / 'grpo.yaml')}")


def _print_samples(run: Path, console: object) -> None:
    files = sorted((run / "rollouts").glob("step-*.jsonl"))
    if not files:
        return
    print(f"three samples of {files[-1].stem} (answers are written with the last digit first):")
    for line in files[-1].read_text(encoding="utf-8").splitlines()[::8][:3]:
        sample = json.loads(line)
        print(
            f"  {sample['prompt']} {sample['completion']:<5} expected {sample['answer']}  reward {sample['reward']:g}"
        )


def draw_curve(folder: Path) -> Path:
    """Held-out accuracy by step, both stages in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4))
    offset = 0
    for name in ("warmup", "grpo"):
        lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        points = [(line["step"], line["metrics"]["eval/reward"]) for line in lines if "eval/reward" in line["metrics"]]
        axis.plot([offset + step for step, _ in points], [value for _, value in points], marker=".", label=name)
        offset += lines[-1]["step"]
    axis.set(xlabel="step", ylabel="held-out accuracy", ylim=(0, 1.02), title="two-digit addition")
    axis.grid(alpha=0.3)
    axis.legend()
    path = folder / "learning-curve.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return path
