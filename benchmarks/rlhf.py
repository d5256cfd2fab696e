"""From demonstrations to an evaluated policy by the pipeline `rlhf`, on preferences whose truth is known.

python benchmarks/rlhf.py --out benchmarks/results/rlhf.md

Answers are six letters from a to f; the better one of two has more of the letter a, and one preference in ten is told
the wrong way round. Nobody tells the policy: it learns from a reward model that has learnt from the pairs. An answer is
positive if at least half of its letters are an a. Demonstrations know nothing of it. Prompts of the evaluation and
pairs of the ranking are seen in no stage before. The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dovetail_rlhf.pipeline import Pipeline
from dovetail_rlhf.reading import read

MINUTES, NATS, WRONG = 10, 10.0, 0.1
TINY = {"hidden": 32, "layers": 1, "heads": 2, "context": 32, "characters": "abcdef uvwxyz:"}
POSITIVE = '''"""The truth, which no stage before the evaluation sees."""


def positive(texts):
    """1 if at least half of the six letters are an a, else 0."""
    return [float(text.count("a") >= 3) for text in texts]
'''


def answer(draw: random.Random, share: float) -> str:
    """Six letters, each an a with this probability."""
    return "".join("a" if draw.random() < share else draw.choice("bcdef") for _ in range(6))


def pair(draw: random.Random, prompt: str, wrong: float) -> dict[str, str]:
    """Two answers, of which the one with more of the letter a is preferred, but for a share of mistakes."""
    while True:
        worse, better = sorted((answer(draw, 0.15), answer(draw, 0.4)), key=lambda text: text.count("a"))
        if worse.count("a") < better.count("a"):
            chosen, rejected = (worse, better) if draw.random() < wrong else (better, worse)
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def write(folder: Path, seed: int) -> dict[str, str]:
    """The files of all inputs, by name."""
    draw = random.Random(seed)
    prompts = [f"{''.join(letters)}:" for letters in itertools.product("uvwxyz", repeat=2)]
    draw.shuffle(prompts)
    seen, held_out = prompts[:24], prompts[24:]
    rows = {
        "demonstrations": [{"prompt": draw.choice(seen), "completion": answer(draw, 0.25)} for _ in range(2000)],
        "pairs": [pair(draw, draw.choice(seen), WRONG) for _ in range(2000)],
        "held_out_pairs": [pair(draw, draw.choice(held_out), 0.0) for _ in range(256)],
        "prompts": [{"prompt": prompt} for prompt in seen],
        "held_out_prompts": [{"prompt": prompt} for prompt in held_out],
    }
    for name, chosen in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    (folder / "positive.py").write_text(POSITIVE, encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in rows}


def configuration(folder: Path, seed: int) -> Path:
    """The preset with a tiny model: its learning rates, its sizes, and the truth as a reward of the evaluation."""
    fast = {"optimizer": {"lr": 3.0e-3}}
    model = {"use": "reward-model", "models": [{"stage": "reward-model"}]}
    stages: dict[str, Any] = {
        "sft": {"policy": {"model": None, "tiny": {**TINY, "seed": seed}, **fast}, "steps": 150, "batch_size": 32},
        "reward-model": {"policy": fast},
        "ppo": {"policy": {**fast, "lora": {"rank": 8}}, "agents": {"value_model": fast}, "sampling": {"max_tokens": 8},
                "steps": 60},
        "evaluation": {"make": {"use": "evaluate", "samples": 64}, "sampling": {"max_tokens": 8},
                       "rewards": [model, {"use": "positive.py:positive", "weight": 0.0}]},
    }  # fmt: skip
    words = {"use": "rlhf", "inputs": write(folder, seed), "run_dir": str(folder / "run"), "seed": seed, "threads": 1}
    path = folder / "rlhf.json"
    path.write_text(json.dumps({**words, "stages": stages}, indent=2), encoding="utf-8")
    return path


def measure(seed: int, folder: Path) -> tuple[list[str], bool]:
    """A row of the table for each stage, and whether all goals are met."""
    started = time.perf_counter()
    found = Pipeline(read(configuration(folder, seed)), tell=lambda line: print(line, file=sys.stderr)).run()
    minutes = (time.perf_counter() - started) / 60
    seconds = {path.parent.name: json.loads(path.read_text())["seconds"] for path in folder.glob("run/*/stage.json")}
    last = found["evaluation"]
    before, after, moved = last["reward/positive/sft"], last["reward/positive/ppo"], last["kl/ppo"]
    told = {
        "sft": f"loss {found['sft']['loss']:.3f} nats a token",
        "reward-model": f"accuracy {found['reward-model']['bradley-terry/accuracy']:.2f} on its last batch, "
        f"where {1 - WRONG:.2f} is the truth",
        "ranking": f"accuracy {found['ranking']['accuracy/reward-model']:.3f} on held-out pairs",
        "ppo": f"reward {found['ppo']['reward']:.2f}, KL {found['ppo']['gae/kl']:.2f} nats",
        "evaluation": f"positive {before:.3f} → {after:.3f}, KL {moved:.2f} nats, wins {last['win_rate/ppo']:.2f}",
    }
    rows = [f"| {seed} | {name} | {seconds[name]:.0f} | {text} |" for name, text in told.items()]
    rows.append(f"| {seed} | **all** | {60 * minutes:.0f} | |")
    return rows, after > before and moved < NATS and minutes < MINUTES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows, met = [], True
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            found, is_met = measure(seed, Path(folder))
        rows, met = [*rows, *found], met and is_met
    title = "# The pipeline `rlhf` from demonstrations to an evaluated policy"
    wanted = f"positive rate on unseen prompts rises, KL below {NATS:g} nats, below {MINUTES} minutes"
    goals = f"Goals for each seed: {wanted}: {'met' if met else 'MISSED'}."
    machine = f"{platform.machine()}, one thread, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}."
    table = ["| seed | stage | seconds | |", "|---|---|---|---|", *rows]
    page = "\n".join([title, "", f"`python benchmarks/rlhf.py`; {machine}", goals, "", *table, ""])
    print(page)
    if arguments.out:
        arguments.out.write_text(page, encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
