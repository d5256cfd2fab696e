"""Play episodes with a model and write them as rows: to read, to filter, to learn from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import UserError
from dovetail_trainer.cli import source

if TYPE_CHECKING:
    from dovetail.rollouts import Rollouts


def configure(parser: argparse.ArgumentParser) -> None:
    source.configure(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON lines, which sft reads as they are")
    parser.add_argument("--at-least", type=float, metavar="REWARD", help="keep only episodes with this reward")
    parser.add_argument("--with-tokens", action="store_true", help="token ids with their origins and log-probs, too")
    parser.set_defaults(split="train")


def run(arguments: argparse.Namespace) -> int:
    """Write a row for each episode that has a valid reward."""
    out = Path(arguments.out)
    if out.exists():
        raise UserError(f"{out} exists already", hint="remove it, or choose another --out")
    playing = source.Source.read(arguments)
    environment = playing.environment()
    tasks = playing.tasks(environment)
    counts = {"kept": 0, "invalid": 0, "below": 0}
    aside = out.with_name(f".{out.name}")  # half a file must not look like a whole one
    out.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("w", encoding="utf-8") as file:
        for rollouts in playing.play(playing.policy(), environment, tasks):
            for row in _rows(rollouts, with_tokens=arguments.with_tokens):
                fate = _fate(row, arguments.at_least)
                counts[fate] += 1
                if fate == "kept":
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    aside.replace(out)
    left_out = ", ".join(f"{count} {name}" for name, count in counts.items() if count and name != "kept")
    print(f"{counts['kept']} episodes in {out}" + (f"; left out: {left_out}" if left_out else ""))
    if not counts["kept"]:
        print("no episode is good enough to keep", file=sys.stderr)
    return 0 if counts["kept"] else 1


def _fate(row: dict[str, Any], at_least: float | None) -> str:
    if row["reward"] is None:
        return "invalid"
    return "below" if at_least is not None and row["reward"] < at_least else "kept"


def _rows(rollouts: Rollouts, *, with_tokens: bool) -> Iterator[dict[str, Any]]:
    from dovetail_trainer.samples import chat, sample_rows

    for row, sample in enumerate(sample_rows(rollouts, rollouts.rewards["reward"])):
        about = {key: sample[key] for key in ("task", "reward", "rewards", "finish_reason", "policy_version")}
        told = {"messages": chat(rollouts.messages[row]), **about, "step_rewards": sample.get("step_rewards", [])}
        if with_tokens:
            told["tokens"] = rollouts.tokens[row].tolist()
            told["origin"] = rollouts.origin[row].tolist()
            told["sampled_logprobs"] = rollouts.sampled_logprobs[row].tolist() if rollouts.sampled_logprobs else []
        yield told
