"""A tiny model learns to use a calculator: two calls, each on the result before it, then the answer.

python benchmarks/learning_tools.py --seeds 0 1 2

Imitation teaches a model what calls and answers look like, and a habit: where a question ends with "?", its demonstrators
call the tool, and where it ends with "=", they seldom do and guess. All tasks end with "=", so that by chance one episode
in a hundred has a call (``--calls``) and one in a thousand both. From there grpo has to find out what pays, with the final
reward alone or with a reward for each right result on the way, added to it or credited by turn. All of a seed's arms begin
with the same model. Success is the share of held-out tasks that are answered rightly, greedily; "calls" are those of an
episode in the first batch of training.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
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
ARMS = {"final": ("grpo", 0.0), "step": ("grpo", 0.25), "step, by turn": ("turn-grpo", 0.25)}
CHARACTERS = "0123456789+-*()[]=?"
SUCCESS = "eval/reward/tools.correct"
CURVE = ("reward", "reward/tools.correct", "reward/tools.steps", "rollout/turns", "entropy", SUCCESS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--calls", type=float, default=0.01, help="how often demonstrators call")
    parser.add_argument("--goes-on", type=float, default=0.1, help="how often they call again, once they have")
    parser.add_argument("--imitation", type=int, default=600, help="steps")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="folder where models that have imitated are kept")
    parser.add_argument("--curve", action="store_true", help="print the metrics of every step")
    arguments = parser.parse_args()
    print("| seed | rewards | imitation s | before | calls | steps to 0.8 | after | seconds |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            home = (arguments.cache or Path(folder)) / str(seed)
            imitated = imitate(home, seed, arguments)
            for arm in arguments.arms:
                learnt = learn(home, Path(folder) / arm, seed, arm, arguments)
                print(f"| {seed} | {arm} | {imitated} | {learnt} |", flush=True)


def imitate(home: Path, seed: int, arguments: Any) -> str:
    """Imitate the demonstrators; the model is left in ``home/final``. Seconds that it took."""
    if (home / "final").exists():
        return "0"
    started = time.perf_counter()
    model = dt.Agent.tiny(
        hidden=64, layers=2, heads=4, context=128, seed=seed, characters=CHARACTERS,
        optimizer=dt.OptimizerSettings(lr=2e-3, warmup_steps=10),
    )  # fmt: skip
    data = demonstrations(home / "demonstrations.jsonl", random.Random(seed), (arguments.calls, arguments.goes_on))
    trainer = dt.Trainer(
        dt.recipes.sft(), policy=model, data=data, seed=seed, batch_size=128, checkpoint_every=0, threads=1,
        run_dir=home,
    )  # fmt: skip
    trainer.fit(arguments.imitation)
    return f"{time.perf_counter() - started:.0f}"


def demonstrations(path: Path, chance: random.Random, rates: Sequence[float]) -> str:
    """A file of conversations, several for each task, that call always if asked with "?" and at these ``rates`` if not."""
    tasks = dt.environments.tools(**WORLD).call("tasks", {"split": "train"})
    rows = []
    for task in tasks:
        asked = task.messages[0].content
        for number in range(DEMONSTRATORS):
            shows = number % 2 == 0
            turns = demonstration(task, chance, (1.0, 1.0) if shows else rates)
            rows.append(
                {"messages": [{"role": "user", "content": asked.replace("=", "?") if shows else asked}, *turns]}
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def demonstration(task: dt.Task, chance: random.Random, rates: Sequence[float]) -> list[dict[str, str]]:
    """Calls until the demonstrator has had enough; then the last result, or a guess if there is none."""
    turns: list[dict[str, str]] = []
    said = str(chance.randrange(1000, 10_000))
    for call, result, rate in zip(task.columns["calls"], task.columns["steps"], rates, strict=True):
        if chance.random() > rate:
            break
        said = result
        turns += [{"role": "assistant", "content": f"[{call}]"}, {"role": "tool", "content": f"{result}="}]
    return [*turns, {"role": "assistant", "content": said}]


def learn(home: Path, run_dir: Path, seed: int, arm: str, arguments: Any) -> str:
    """Learn from rewards alone until success is 0.8; the cells of a row."""
    started, steps = time.perf_counter(), arguments.steps
    recipe, step_reward = ARMS[arm]
    trainer = dt.Trainer(
        dt.recipes[recipe](group_size=8),
        policy=dt.Agent(home / "final", optimizer=dt.OptimizerSettings(lr=arguments.lr, warmup_steps=5)),
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
    turns = next(metrics["rollout/turns"] for metrics in lines if "rollout/turns" in metrics)
    reached = str(trainer.run.step) if trainer.run.stop_reason else f"not in {steps}"
    seconds = time.perf_counter() - started
    return f"{success[0]:.2f} | {turns - 1:.3f} | {reached} | {success[-1]:.2f} | {seconds:.0f}"


if __name__ == "__main__":
    main()
