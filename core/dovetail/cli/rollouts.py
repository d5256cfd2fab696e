"""Read the samples of a run: prompt, completion, rewards, advantage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dovetail.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--step", type=int, help="of this step; by default the last one written")
    parser.add_argument("--limit", type=int, default=20, help="most samples shown")
    parser.add_argument("--invalid", action="store_true", help="those without a valid reward")


def run(arguments: argparse.Namespace) -> int:
    """Print samples; on a terminal, a page at a time.

    Raises:
        UserError: There is no such run or step.
    """
    path = _file(Path(arguments.run), "invalid" if arguments.invalid else "rollouts", arguments.step)
    lines = path.read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines[: arguments.limit]]
    text = "\n".join([f"{path}: {len(lines)} samples, {len(samples)} shown", *(_sample(s) for s in samples)])
    if sys.stdout.isatty():
        import pydoc

        pydoc.pager(text)
    else:
        print(text)
    return 0


def _file(run: Path, folder: str, step: int | None) -> Path:
    found = sorted((run / folder).glob("step-*.jsonl"))
    if not found:
        raise UserError(f"{run / folder} holds no samples", hint="give the folder of a run, and rollouts_every above 0")
    if step is None:
        return found[-1]
    path = run / folder / f"step-{step:06d}.jsonl"
    if path not in found:
        known = f"steps {found[0].stem.partition('-')[2]} to {found[-1].stem.partition('-')[2]}"
        raise UserError(f"step {step} has no samples in {run / folder}", hint=f"there are {known}")
    return path


def _sample(sample: dict[str, Any]) -> str:
    texts = [line for part in ("prompt", "completion") for line in (f"  {part}", _indented(sample[part]))]
    return "\n".join(["", *_head(sample), *texts])


def _head(sample: dict[str, Any]) -> Iterator[str]:
    reward, advantage = (_number(sample.get(name)) for name in ("reward", "advantage"))
    about = f"task {sample['task']}, {sample['tokens']} tokens, {sample['finish_reason']}"
    yield f"{about}: reward {reward}, advantage {advantage}"
    for name, score in sample["rewards"].items():
        shown = _number(score["value"]) if score["status"] == "OK" else f"{score['status']}: {score['reason']}"
        yield f"  {name}: {shown}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
