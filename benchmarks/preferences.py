"""Learning from preferences whose truth is known, on a tiny model: what each algorithm makes of held-out pairs.

    python benchmarks/preferences.py [--seeds 3] [--steps 60] [--out benchmarks/results/preferences.md]

Answers are six letters; the one with more of the letter a is the better one. The margin is the mean difference of an
answer's mean log-prob, chosen minus rejected, in nats per token, whatever the algorithm optimises. A reward model is
judged by how often it ranks a held-out pair as the truth does, and an ensemble of three by its standard deviation on
answers of the kind that it learnt from and on strings of other characters.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import dovetail as dt
from dovetail_trainer.data import encode_rows
from dovetail_trainer.layouts import layout_of

CHARACTERS = "abcdefghijklmnopqrstuvwxyz 0123456789:"
BATCH, HELD_OUT, MEMBERS = 8, 128, 3
OPTIONS = {"dpo": {}, "dpo (ipo)": {"loss_type": "ipo"}, "cpo": {}, "simpo": {}, "orpo": {}, "kto": {}}


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Random pairs of which one has more of the letter a."""
    draw = torch.Generator().manual_seed(seed)

    def answer(share: float) -> str:
        picked = (torch.rand(6, generator=draw) < share).tolist()
        others = torch.randint(0, 5, (6,), generator=draw).tolist()
        return "".join("a" if is_a else "bcdef"[other] for is_a, other in zip(picked, others, strict=True))

    rows: list[dict[str, str]] = []
    while len(rows) < count:
        worse, better = sorted((answer(0.6), answer(0.2)), key=lambda text: text.count("a"))
        if worse.count("a") < better.count("a"):
            prompt = "say " + "xyz"[int(torch.randint(0, 3, (), generator=draw))] + ":"
            rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
    return rows


def tiny(seed: int, lr: float = 1e-2, **options: Any) -> dt.Agent:
    optimizer = dt.OptimizerSettings(lr=lr)
    shape = {"hidden": 32, "layers": 1, "heads": 2, "context": 64}
    return dt.Agent.tiny(**shape, characters=CHARACTERS, seed=seed, optimizer=optimizer, trainable=True, **options)


def train(name: str, policy: dt.Agent, seed: int, steps: int, **options: Any) -> None:
    """Learn from ``steps`` batches of pairs, or of their answers by themselves."""
    recipe = dt.recipes[name](**options)
    reads = "labelled" if name == "kto" else "pairs"
    references = {"ref_policy": policy.frozen()} if "ref_policy" in recipe.inputs else {}
    compiled = dt.compile(recipe, policy=policy, **references)
    rows: list[Any] = pairs(BATCH * steps, seed)
    if name == "kto":
        rows = [
            {"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"}
            for row in rows
            for key in ("chosen", "rejected")
        ]
    size = len(rows) // steps
    for step in range(steps):
        compiled.run(**{reads: encode_rows(rows[size * step : size * (step + 1)], policy, layout_of(reads))})


def judged(policy: dt.Agent, rows: list[dict[str, str]]) -> tuple[float, float]:
    """Mean margin in nats per token, and the share of pairs where it is above 0."""
    compiled = dt.compile(dt.recipes["simpo"](beta=1.0), policy=policy)
    found = compiled.learn(compiled.collect(pairs=encode_rows(rows, policy, layout_of("pairs"))), update=False)
    return found["simpo/margin"], found["simpo/accuracy"]


def policies(seeds: int, steps: int) -> list[str]:
    lines = [
        "| algorithm | margin before | margin after | accuracy before | accuracy after | seconds |",
        "|---|" + "---|" * 5,
    ]
    held_out = pairs(HELD_OUT, 10_000)
    for label, options in OPTIONS.items():
        name, started, before, after = label.partition(" ")[0], time.perf_counter(), [], []
        for seed in range(seeds):
            policy = tiny(seed)
            before.append(judged(policy, held_out))
            train(name, policy, seed, steps, **options)
            after.append(judged(policy, held_out))
        seconds = (time.perf_counter() - started) / seeds
        shown = [_spread([pair[place] for pair in found]) for place in (0, 1) for found in (before, after)]
        lines.append(f"| {label} | {' | '.join(shown)} | {seconds:.1f} |")
    return lines


def reward_models(seeds: int, steps: int) -> list[str]:
    lines = ["| reward model | accuracy | uncertainty, known | uncertainty, strange | seconds |", "|---|" + "---|" * 4]
    rows = pairs(HELD_OUT, 10_000)
    chosen, rejected = ([_conversation(row["prompt"], row[key]) for row in rows] for key in ("chosen", "rejected"))
    strange = [_conversation(row["prompt"], f"{place} zyxwv utsrq {place * 7}") for place, row in enumerate(rows)]
    accuracy, known, odd, started = [], [], [], time.perf_counter()
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            members = [_member(seed * MEMBERS + member, steps, folder) for member in range(MEMBERS)]
            part = dt.rewards["reward-model"](models=members).instance
            accuracy.append((part.score(chosen) > part.score(rejected)).float().mean().item())
            known.append(part.uncertainty([*chosen, *rejected]).mean().item())
            odd.append(part.uncertainty(strange).mean().item())
    seconds = (time.perf_counter() - started) / seeds
    shown = " | ".join(_spread(found) for found in (accuracy, known, odd))
    return [*lines, f"| ensemble of {MEMBERS} | {shown} | {seconds:.1f} |"]


def _member(seed: int, steps: int, folder: str) -> str:
    model = tiny(seed, lr=5e-3, head="value")
    train("reward-model", model, seed, steps, bootstrap=seed + 1, center=0.02)
    return str(model.save(Path(folder) / str(seed)))


def _conversation(prompt: str, answer: str) -> tuple[dt.Message, dt.Message]:
    return dt.Message("user", prompt), dt.Message("assistant", answer)


def _spread(found: list[float]) -> str:
    return f"{statistics.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    title = f"Mean of {arguments.seeds} seeds (least to most), {arguments.steps} steps of {BATCH} pairs, {HELD_OUT} held out."
    machine = f"{platform.machine()}, one thread, torch {torch.__version__}."
    tables = [policies(arguments.seeds, arguments.steps), reward_models(arguments.seeds, arguments.steps)]
    page = "\n".join(["# Preferences whose truth is known", "", title, machine, "", *tables[0], "", *tables[1], ""])
    print(page)
    if arguments.out:
        arguments.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
