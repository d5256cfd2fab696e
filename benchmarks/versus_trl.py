"""dovetail against TRL's GRPOTrainer on the same work, step by step in turn.

python benchmarks/versus_trl.py                      # W1 to W6, about half an hour on two cores
python benchmarks/versus_trl.py --only W1 --rounds 9
python benchmarks/versus_trl.py --peer plain         # against transformers' generate and plain PyTorch instead
python benchmarks/versus_trl.py --sweeps             # cost against group size, completion length, prompts
python benchmarks/versus_trl.py --sweeps --picture sweeps.png

Needs ``pip install -r benchmarks/requirements.txt``. Each side runs in a process of its own; the two take turns, so
that a busy neighbour meets both. Before anything is timed, both must agree on loss and gradient.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import attrs
from versus.workloads import WORKLOADS, Workload, by_key, write_model

PEERS = ("trl", "plain")
SWEEPS = {
    "group size": [f"W1,group={size}" for size in (4, 8, 16, 32)],
    "completion tokens": [f"W1,completion_tokens={count}" for count in (32, 128, 512)],
    "prompts": [f"W1,prompts={count}" for count in (4, 8, 16, 32)],
}


# ---- one side, in a process of its own


def serve(side: str, workload: Workload, model: Path, device: str) -> None:
    """Run one step for each line read; write what it took."""
    import importlib

    out = os.fdopen(os.dup(1), "w")  # libraries print to stdout; they get stderr
    os.dup2(2, 1)
    steps = importlib.import_module(f"versus.{side}_side").steps(workload, model, device)
    next(steps)
    print(json.dumps({"loaded_mb": peak_mb(device)}), file=out, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        result = next(steps)
        synchronize(device)
        seconds = time.perf_counter() - started
        print(json.dumps({**result, "seconds": seconds, "peak_mb": peak_mb(device)}), file=out, flush=True)


def synchronize(device: str) -> None:
    """Wait for what a step left running on the device."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def peak_mb(device: str) -> float:
    """Largest resident memory of this process so far; on CUDA, of the device's allocator."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Side:
    """A child process that takes one step when asked."""

    def __init__(self, name: str, key: str, model: Path, device: str) -> None:
        command = [sys.executable, __file__, "--side", name, "--only", key, "--model", str(model), "--device", device]
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.steps: list[dict[str, Any]] = []
        self.loaded_mb = self._read()["loaded_mb"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed:\n{self._process.communicate()[1][-3000:]}")
        return dict(json.loads(line))

    def step(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.steps.append(self._read())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def rate(self, round_: int) -> float:
        """Sampled tokens a second."""
        step = self.steps[round_]
        return float(step["tokens"] / step["seconds"])

    def seconds(self) -> float:
        return median(step["seconds"] for step in self.steps)

    def phase(self, name: str) -> float:
        return median(step["phases"].get(name, 0.0) for step in self.steps)


# ---- a duel


@attrs.frozen
class Duel:
    """What the rounds of one workload gave."""

    workload: Workload
    ours: Side
    theirs: Side

    @property
    def ratios(self) -> list[float]:
        """Our throughput over theirs, round by round."""
        return [self.ours.rate(index) / self.theirs.rate(index) for index in range(len(self.ours.steps))]

    @property
    def memory(self) -> float:
        """Our peak over theirs."""
        return float(self.ours.steps[-1]["peak_mb"] / self.theirs.steps[-1]["peak_mb"])

    def summary(self) -> dict[str, Any]:
        """The figures of its row."""
        return {
            "workload": self.workload.name, "seconds": self.ours.seconds(), "peer_seconds": self.theirs.seconds(),
            "throughput": median(self.ratios), "memory": self.memory,
        }  # fmt: skip


def duel(key: str, rounds: int, device: str, peer: str) -> Duel:
    """Both sides in turn; the first round warms up and does not count."""
    workload = by_key(key)
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(workload, Path(folder))
        check_agreement(key, model, device, peer)
        ours, theirs = (Side(name, key, model, device) for name in ("dovetail", peer))
        try:
            for round_ in range(rounds + 1):
                for side in (ours, theirs) if round_ % 2 else (theirs, ours):
                    side.step()
        finally:
            ours.close()
            theirs.close()
    del ours.steps[0], theirs.steps[0]
    return Duel(workload, ours, theirs)


def check_agreement(key: str, model: Path, device: str, peer: str) -> None:
    """Stop unless both sides agree on loss and gradient; in a process of its own, so that no peak is spoilt."""
    command = [sys.executable, __file__, "--agree", "--only", key, "--model", str(model), "--device", device]
    command += ["--peer", peer]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{key}: the two sides disagree, nothing was timed\n{done.stdout}{done.stderr[-3000:]}")


def agree(workload: Workload, model: Path, device: str, peer: str) -> int:
    from versus.agreement import TOLERANCE, disagreement

    loss, gradient = disagreement(workload, model, device, peer)
    print(f"relative difference: loss {loss:.1e}, gradient {gradient:.1e}")
    return 0 if max(loss, gradient) <= TOLERANCE else 1


# ---- tables


def report(keys: list[str], rounds: int, device: str, peer: str, json_file: Path | None) -> None:
    from versus.floor import floor

    from dovetail_benchmark.machine import measure

    machine = measure(device)
    print(
        f"{describe(peer)}\nmatrix products {machine.flops / 1e9:.0f} GFLOP/s, copies {machine.bandwidth / 1e9:.1f} GB/s\n"
    )
    print(
        f"| workload | dovetail s | {peer} s | throughput | pairs | dovetail MB | {peer} MB | memory |\n"
        "|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    duels = []
    for key in keys:
        found = duel(key, rounds, device, peer)
        duels.append(found)
        ratios = sorted(found.ratios)
        ours, theirs = found.ours, found.theirs
        print(
            f"| {found.workload.name} | {ours.seconds():.3f} | {theirs.seconds():.3f} | {median(ratios):.2f} "
            f"| {ratios[0]:.2f}-{ratios[-1]:.2f} | {ours.steps[-1]['peak_mb']:.0f} | {theirs.steps[-1]['peak_mb']:.0f} "
            f"| {found.memory:.2f} |",
            flush=True,
        )
    if json_file is not None:
        json_file.write_text(json.dumps([found.summary() for found in duels]))
    mean = math.exp(sum(math.log(median(found.ratios)) for found in duels) / len(duels))
    print(f"\ngeometric mean of throughput: {mean:.2f}\n")
    print("| workload | generate s | of its floor | learn s | of its floor | elsewhere |\n|---|---|---|---|---|---|")
    for found in duels:
        side = found.ours
        least = floor(found.workload, machine, round(median(step["tokens"] for step in side.steps)))
        generate, learn = side.phase("generate"), side.phase("learn") + side.phase("forward")
        other = side.seconds() - generate - learn - side.phase("optimizer")
        print(
            f"| {found.workload.name} | {generate:.3f} | {least.generate / generate:.0%} "
            f"| {learn:.3f} | {least.learn / learn:.0%} | {other / side.seconds():.1%} |"
        )


def sweep(device: str, rounds: int, picture: Path | None) -> None:
    """Cost of our step against the size of the work: seconds, and the peak beyond what the loaded model takes."""
    points: dict[str, list[tuple[int, float, float]]] = {}
    for title, keys in SWEEPS.items():
        print(f"\n| {title} | seconds | µs a token | peak MB | of it the step's |\n|---|---|---|---|---|")
        for key in keys:
            with tempfile.TemporaryDirectory() as folder:
                side = Side("dovetail", key, write_model(by_key(key), Path(folder)), device)
                for _ in range(rounds + 1):
                    side.step()
                side.close()
            del side.steps[0]
            tokens, size = round(median(step["tokens"] for step in side.steps)), key.partition("=")[2]
            peak = side.steps[-1]["peak_mb"]
            points.setdefault(title, []).append((tokens, side.seconds(), peak - side.loaded_mb))
            print(
                f"| {size} | {side.seconds():.3f} | {side.seconds() / tokens * 1e6:.1f} | {peak:.0f} "
                f"| {peak - side.loaded_mb:.0f} |",
                flush=True,
            )
    if picture is not None:
        draw(points, picture)


def draw(points: dict[str, list[tuple[int, float, float]]], picture: Path) -> None:
    """Seconds and memory of a step against its sampled tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, column, label in zip(figure.subplots(1, 2), (1, 2), ("seconds a step", "MB a step takes"), strict=True):
        for title, found in points.items():
            axes.plot([point[0] for point in found], [point[column] for point in found], "o-", label=title)
        axes.set(xlabel="sampled tokens of a step", ylabel=label, xlim=(0, None), ylim=(0, None))
        axes.legend()
    figure.savefig(picture, dpi=150)
    print(f"\n{picture}")


def describe(peer: str) -> str:
    import importlib.metadata

    import torch

    cores = len(os.sched_getaffinity(0))
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()} with {cores} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", *{"trl"} & {peer}))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[name.split()[0] for name in WORKLOADS], metavar="W1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sweeps", action="store_true")
    parser.add_argument("--picture", type=Path, help="also draw the sweeps here")
    parser.add_argument("--peer", choices=PEERS, default="trl", help="plain: transformers and PyTorch alone")
    parser.add_argument("--json", type=Path, help="also write the figures of the first table here")
    parser.add_argument("--side", choices=("dovetail", *PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--agree", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, by_key(arguments.only[0]), arguments.model, arguments.device)
    elif arguments.agree:
        return agree(by_key(arguments.only[0]), arguments.model, arguments.device, arguments.peer)
    elif arguments.sweeps:
        sweep(arguments.device, arguments.rounds, arguments.picture)
    else:
        report(arguments.only, arguments.rounds, arguments.device, arguments.peer, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
