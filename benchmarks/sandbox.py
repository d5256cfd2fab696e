"""How long does a run in the sandbox take? 1,000 programs of HumanEval's size in each tier, warm and cold.

    python benchmarks/sandbox.py [--runs 1000] [--workers 2] [--humaneval HumanEval.jsonl.gz]

``warm`` runs in servers that are already there, ``cold`` starts a new one for each run (on a tenth of the runs, and
scaled up), ``judged`` runs HumanEval's tests against its own solutions, two processes each, through the environment.
Goals on two cores: 6 s warm, 30 s cold, 10 s for HumanEval.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dovetail import Message, environments
from dovetail_sandbox import Sandbox, Status, probe

PROGRAM = '''
from typing import List


def has_close_elements(numbers: List[float], threshold: float) -> bool:
    """Check if in given list of numbers, are any two numbers closer to each other than given threshold."""
    for index, number in enumerate(numbers):
        for other_index, other in enumerate(numbers):
            if index != other_index and abs(number - other) < threshold:
                return True
    return False


assert has_close_elements([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) is True
assert has_close_elements([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.05) is False
assert has_close_elements([1.1, 2.2, 3.1, 4.1, 5.1], 0.5) is False
print("done")
'''


def timed(box: Sandbox, runs: int, workers: int, *, is_cold: bool) -> tuple[float, list[float]]:
    """Seconds in all, and milliseconds of each run."""

    def run(_: int) -> float:
        started = time.perf_counter()
        one = Sandbox(box.tier, workers=1) if is_cold else box
        result = one.run(PROGRAM)
        if is_cold:
            one.close()
        assert (result.status, result.stdout) == (Status.OK, "done\n"), result
        return (time.perf_counter() - started) * 1e3

    with ThreadPoolExecutor(workers) as threads:
        started = time.perf_counter()
        each = list(threads.map(run, range(runs)))
        return time.perf_counter() - started, each


def judge(path: str, tier: str, workers: int) -> tuple[float, float, int]:
    """Seconds, solved, and how many problems, for HumanEval's own solutions."""
    code = environments.code(path=path, held_out=0.0, sandbox=tier, workers=workers)
    tasks = code.call("tasks", {"split": "train"})

    async def play(task):
        episode = await code.instance.make()
        await episode.reset(seed=0, task=task)
        return (await episode.step(Message("assistant", task.answer))).reward

    async def play_all():
        return await asyncio.gather(*map(play, tasks))

    started = time.perf_counter()
    rewards = asyncio.run(play_all())
    return time.perf_counter() - started, sum(rewards), len(tasks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--humaneval", default=str(Path(__file__).parents[1] / "../shared/data/humaneval/HumanEval.jsonl.gz")
    )
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.platform()}, {cores} cores, {arguments.workers} workers, load before {os.getloadavg()[0]:.1f}")
    print(f"{'tier':8}{'warm s':>10}{'ms median':>12}{'ms p95':>10}{'cold s':>10}{'judged s':>10}{'solved':>10}")
    for tier in ("strict", "basic", "none"):
        if not probe(tier).works:
            print(f"{tier:8}does not work here: {probe(tier).why}")
            continue
        box = Sandbox(tier, workers=arguments.workers)
        timed(box, 4 * arguments.workers, arguments.workers, is_cold=False)
        warm, each = timed(box, arguments.runs, arguments.workers, is_cold=False)
        few = max(1, arguments.runs // 10)
        cold = timed(box, few, arguments.workers, is_cold=True)[0] * arguments.runs / few
        box.close()
        line = f"{tier:8}{warm:10.2f}{statistics.median(each):12.2f}{statistics.quantiles(each, n=20)[18]:10.2f}{cold:10.2f}"
        if Path(arguments.humaneval).exists():
            seconds, solved, count = judge(arguments.humaneval, tier, arguments.workers)
            line += f"{seconds:10.2f}{f'{solved:.0f}/{count}':>10}"
        print(line)


if __name__ == "__main__":
    main()
