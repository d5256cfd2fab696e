"""A tiny model learns to use a calculator: two calls, each on the result before it, then the answer.

python benchmarks/learning_tools.py --seeds 0 1 2

Imitation shows the model what calls and answers look like, and gives it bad habits: its demonstrators may guess instead of
calling the tool (``--calls``, ``--goes-on``), and slip into another operator in a call (``--slips``). grpo has to find out
what pays, once with a reward for each right result on the way and once with the final reward alone. Success is the share
of held-out tasks that are answered rightly, greedily.
"""

from __future__ import annotations

import argparse
import json
import operator
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import dovetail as dt

WORLD = {
    "call_format": "terse",
    "levels": ["two_step"],
    "digits": 2,
    "operations": 1,
    "template": "{question}=",
    "result": "{result}=",
    "final_answer": "whole",
    "max_turns": 4,
    "longest": 8,
}
DEMONSTRATORS = 8
COUNT = {"+": operator.add, "-": operator.sub, "*": operator.mul}
SLIP = {"+": "-", "-": "+", "*": "+"}
CHARACTERS = "0123456789+-*()[]="
CURVE = ("reward", "reward/tools.correct", "rollout/turns", "entropy", "eval/reward/tools.correct")
SUCCESS = "eval/reward/tools.correct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--step-rewards", type=float, nargs="+", default=[0.25, 0.0])
    parser.add_argument("--calls", type=float, default=1.0, help="how often the demonstrators call the tool")
    parser.add_argument("--goes-on", type=float, default=1.0, help="how often they call it again, once they have")
    parser.add_argument("--slips", type=float, default=0.8, help="how often a call has another operator than it should")
    parser.add_argument("--warm-up", type=int, default=500, help="steps of imitation")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--curve", action="store_true", help="print the metrics of every step")
    arguments = parser.parse_args()
    print("| seed | step reward | warm-up s | before | steps to 0.8 | after | seconds |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            warm = warm_up(Path(folder), seed, arguments)
            for step_reward in arguments.step_rewards:
                learnt = learn(Path(folder), seed, step_reward, arguments)
                print(f"| {seed} | {step_reward:g} | {warm} | {learnt} |", flush=True)


def warm_up(folder: Path, seed: int, arguments: Any) -> str:
    """Imitate demonstrations; the model is left in ``folder/warm/final``."""
    tasks = dt.environments.tools(**WORLD).call("tasks", {"split": "train"})
    chance = random.Random(seed)
    path = folder / "demonstrations.jsonl"
    # Several of each task, so that whether a demonstrator slips cannot be learnt by heart.
    rows = ({"messages": demonstration(task, chance, arguments)} for task in tasks for _ in range(DEMONSTRATORS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    policy = dt.Agent.tiny(
        hidden=64, layers=2, heads=4, context=128, seed=seed, characters=CHARACTERS,
        optimizer=dt.OptimizerSettings(lr=2e-3, warmup_steps=10),
    )  # fmt: skip
    started = time.perf_counter()
    trainer = dt.Trainer(
        dt.recipes.sft(), policy=policy, data=str(path), seed=seed, batch_size=128, checkpoint_every=0, threads=1,
        run_dir=folder / "warm",
    )  # fmt: skip
    trainer.fit(arguments.warm_up)
    return f"{time.perf_counter() - started:.0f}"


def demonstration(task: dt.Task, chance: random.Random, habits: Any) -> list[dict[str, str]]:
    """A conversation of a demonstrator with these habits, whose calls are on what the tool said before."""
    turns = [{"role": "user", "content": task.messages[0].content}]
    said, results = str(chance.randrange(10, 2000)), {}
    for call, result in zip(task.columns["calls"], task.columns["steps"], strict=True):
        if chance.random() > (habits.goes_on if len(turns) > 1 else habits.calls):
            break
        left, sign, right = re.fullmatch(r"(-?\d+)([-+*])(\d+)", call).groups()
        if chance.random() < habits.slips:
            sign = SLIP[sign]
        left = results.get(left, left)
        results[result] = said = str(COUNT[sign](int(left), int(right)))
        turns += [{"role": "assistant", "content": f"[{left}{sign}{right}]"}, {"role": "tool", "content": f"{said}="}]
    return [*turns, {"role": "assistant", "content": said}]


def learn(folder: Path, seed: int, step_reward: float, arguments: Any) -> str:
    """Learn from rewards alone until success is 0.8; the cells of a row."""
    started, steps = time.perf_counter(), arguments.steps
    run_dir = folder / f"grpo-{step_reward:g}"
    trainer = dt.Trainer(
        dt.recipes.grpo(group_size=8),
        policy=dt.Agent(folder / "warm/final", optimizer=dt.OptimizerSettings(lr=arguments.lr, warmup_steps=5)),
        environment=dt.environments.tools(**WORLD, step_reward=step_reward), seed=seed, batch_size=16,
        sampling=dt.Sampling(max_tokens=12), evaluate_every=1, evaluate_tasks=128, checkpoint_every=0, threads=1,
        rollouts_every=0, run_dir=run_dir,
        extensions=[dt.extensions["early-stopping"](metric=SUCCESS, at_least=0.8)],
    )  # fmt: skip
    trainer.fit(steps)
    lines = [json.loads(line)["metrics"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    if arguments.curve:
        for metrics in lines:
            print({name: round(value, 3) for name, value in metrics.items() if name in CURVE})
    success = [metrics[SUCCESS] for metrics in lines if SUCCESS in metrics]
    reached = str(trainer.run.step) if trainer.run.stop_reason else f"not in {steps}"
    return f"{success[0]:.2f} | {reached} | {success[-1]:.2f} | {time.perf_counter() - started:.0f}"


if __name__ == "__main__":
    main()
