"""A tiny model learns to use a calculator: two calls, each on the result before it, then the answer.

python benchmarks/learning_tools.py --seeds 0 1 2

A few demonstrations show what a call looks like; grpo does the rest, once with a reward for each right result on the
way and once with the final reward alone. Success is the share of held-out tasks that are answered rightly, greedily.
"""

from __future__ import annotations

import argparse
import json
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
CHARACTERS = "0123456789+-*()[]="
SUCCESS = "eval/reward/tools.correct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--step-rewards", type=float, nargs="+", default=[0.25, 0.0])
    parser.add_argument("--demonstrations", type=int, default=1000)
    parser.add_argument("--warm", type=float, default=0.1, help="success at which imitation ends")
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    print("| seed | step reward | warm-up steps, s | before | steps to 0.8 | after | seconds |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            warm = warm_up(Path(folder), seed, arguments)
            for step_reward in arguments.step_rewards:
                learnt = learn(Path(folder), seed, step_reward, arguments)
                print(f"| {seed} | {step_reward:g} | {warm} | {learnt} |", flush=True)


def warm_up(folder: Path, seed: int, arguments: Any) -> str:
    """Imitate demonstrations until some held-out tasks succeed; the model is left in ``folder/warm/final``."""
    environment = dt.environments.tools(**WORLD)
    tasks = environment.call("tasks", {"split": "train"})[: arguments.demonstrations]
    path = folder / "demonstrations.jsonl"
    path.write_text("".join(json.dumps({"messages": demonstration(task)}) + "\n" for task in tasks), encoding="utf-8")
    policy = dt.Agent.tiny(
        hidden=64, layers=2, heads=4, context=128, seed=seed, characters=CHARACTERS,
        optimizer=dt.OptimizerSettings(lr=1e-3),
    )  # fmt: skip
    started = time.perf_counter()
    trainer = dt.Trainer(
        dt.recipes.sft(), policy=policy, environment=environment, data=str(path), seed=seed, batch_size=128,
        sampling=dt.Sampling(max_tokens=12), evaluate_every=10, evaluate_tasks=128, checkpoint_every=0, threads=1,
        extensions=[dt.extensions["early-stopping"](metric=SUCCESS, at_least=arguments.warm)], run_dir=folder / "warm",
    )  # fmt: skip
    trainer.fit(1000)
    return f"{trainer.run.step}, {time.perf_counter() - started:.0f}"


def demonstration(task: dt.Task) -> list[dict[str, str]]:
    """The conversation that solves a task."""
    turns = [{"role": "user", "content": task.messages[0].content}]
    for call, result in zip(task.columns["calls"], task.columns["steps"], strict=True):
        turns += [{"role": "assistant", "content": f"[{call}]"}, {"role": "tool", "content": f"{result}="}]
    return [*turns, {"role": "assistant", "content": task.answer}]


def learn(folder: Path, seed: int, step_reward: float, arguments: Any) -> str:
    """Learn from rewards alone until success is 0.8; the cells of a row."""
    started, steps = time.perf_counter(), arguments.steps
    run_dir = folder / f"grpo-{step_reward:g}"
    trainer = dt.Trainer(
        dt.recipes.grpo(group_size=8, entropy_coef=0.005),
        policy=dt.Agent(folder / "warm/final", optimizer=dt.OptimizerSettings(lr=arguments.lr, warmup_steps=5)),
        environment=dt.environments.tools(**WORLD, step_reward=step_reward), seed=seed, batch_size=32,
        sampling=dt.Sampling(max_tokens=12), evaluate_every=10, evaluate_tasks=256, checkpoint_every=0, threads=1,
        rollouts_every=0, run_dir=run_dir,
        extensions=[dt.extensions["early-stopping"](metric=SUCCESS, at_least=0.8)],
    )  # fmt: skip
    trainer.fit(steps)
    lines = [json.loads(line)["metrics"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    success = [metrics[SUCCESS] for metrics in lines if SUCCESS in metrics]
    reached = str(trainer.run.step) if trainer.run.stop_reason else f"not in {steps}"
    return f"{success[0]:.2f} | {reached} | {success[-1]:.2f} | {time.perf_counter() - started:.0f}"


if __name__ == "__main__":
    main()
