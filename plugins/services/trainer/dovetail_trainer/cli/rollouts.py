"""Read the samples of a run: prompt, completion, rewards, advantage; of an episode its turns, by origin."""

from __future__ import annotations

import argparse
import json
import os
import pydoc
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dovetail.errors import UserError

_PLAIN = "\033[0m"
_COLOURS = {"PROMPT": "\033[2m", "SAMPLED": "\033[32m", "TOOL": "\033[36m", "FORCED": "\033[33m"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--step", type=int, help="of this step; by default the last one written")
    parser.add_argument("--limit", type=int, default=20, help="most samples shown")
    parser.add_argument("--invalid", action="store_true", help="those without a valid reward")
    parser.add_argument("--colour", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal")


def run(arguments: argparse.Namespace) -> int:
    """Print samples; on a terminal, a page at a time."""
    path = _file(Path(arguments.run) / ("invalid" if arguments.invalid else "rollouts"), arguments.step)
    *lines, _ = path.read_text(encoding="utf-8").split("\n")  # a completion may hold what splitlines() takes for an end
    on_terminal = sys.stdout.isatty()
    colour = arguments.colour == "always" or (arguments.colour == "auto" and on_terminal)
    samples = [_sample(json.loads(line), colour=colour) for line in lines[: arguments.limit]]
    os.environ.setdefault("LESS", "-R")  # or the pager shows colours as codes
    show = pydoc.pager if on_terminal else print
    show("\n\n".join([f"{path}: {len(lines)} samples, {len(samples)} shown", *samples]))
    return 0


def _file(folder: Path, step: int | None) -> Path:
    found = {path.stem.removeprefix("step-"): path for path in sorted(folder.glob("step-*.jsonl"))}
    if not found:
        hint = "give the folder of a run, and rollouts_every above 0"
        if (folder.parent / "config.json").exists() and folder.name == "invalid":
            hint = "every sample had a valid reward"
        raise UserError(f"{folder} holds no samples", hint=hint)
    wanted = max(found) if step is None else f"{step:06d}"
    if wanted not in found:
        raise UserError(f"step {step} has no samples in {folder}", hint=f"there are steps {min(found)} to {max(found)}")
    return found[wanted]


def _sample(sample: dict[str, Any], *, colour: bool) -> str:
    about = f"task {sample['task']}, {sample['tokens']} tokens, ended by {sample['finish_reason']}"
    lines = [f"{about}: reward {_number(sample.get('reward'))}, advantage {_number(sample.get('advantage'))}"]
    for name, score in sample["rewards"].items():
        problem = "" if score["status"] == "OK" else f"{score['status']}: {score['reason']}"
        lines.append(f"  {name}: {problem or _number(score['value'])}")
    if "spans" in sample:
        return "\n".join([*lines, *_episode(sample, colour=colour)])
    for part in ("prompt", "completion"):
        lines += [f"  {part}", textwrap.indent(sample[part], "    ")]
    return "\n".join(lines)


def _episode(sample: dict[str, Any], *, colour: bool) -> Iterator[str]:
    """The turns with their rewards, and the text of each origin; the policy's own is the sampled one."""
    rewards, turn = sample["step_rewards"], 0
    calls = sum(message["role"] == "tool" for message in sample["messages"])
    yield f"  {len(rewards)} turns, {calls} answers of tools"
    for origin, text in sample["spans"]:
        label = origin.lower()
        if origin == "SAMPLED":
            reward = _number(rewards[turn]) if turn < len(rewards) else "-"
            turn, label = turn + 1, f"sampled, turn {turn + 1}, reward {reward}"
        before, after = (_COLOURS[origin], _PLAIN) if colour else ("", "")
        yield f"  {before}{label}{after}"
        yield "\n".join(f"    {before}{line}{after}" for line in text.split("\n"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
