"""All that a CUDA machine has to answer, in one command: is it right, is it faster than a peer, how near the floor is it?

python benchmarks/gpu_day.py                         # the table, and a JSON file in benchmarks/results
python benchmarks/gpu_day.py --device cpu --small    # the same code on small shapes, a few minutes on two cores
python benchmarks/gpu_day.py --only correctness      # some of: correctness, versus, qwen-0.5b, qwen-1.5b

Each section runs in a process of its own, so that one that fails, or leaves the device broken, spoils no other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from versus.workloads import SMALL, TINY, Model, Workload

HERE = Path(__file__).parent
DECODE_GOAL, TRAIN_GOAL = 0.5, 0.4
TOLERANCE = 1e-4  # of loss and gradient, in float32
TIE = 1e-4  # two tokens whose log-probs differ by less may change places
VERSIONS = ("dovetail-core", "torch", "transformers", "trl")


@attrs.frozen
class Setting:
    """How a section is to run."""

    device: str
    small: bool
    rounds: int
    micro_batch_tokens: int


@attrs.frozen
class Row:
    """A figure of a section.

    Args:
        measure: What.
        value: Its number.
        limit: What it is held against: a tolerance, or what the machine could do at best.
        share: ``value`` of ``limit``, where more is better.
        goal: For the share; None if there is none for this shape.
    """

    measure: str
    value: float
    limit: float | None = None
    share: float | None = None
    goal: float | None = None

    @property
    def verdict(self) -> str:
        if self.goal is None or self.share is None:
            return ""
        return "met" if self.share >= self.goal else "missed"


# ---- correctness


def correctness(setting: Setting) -> list[Row]:
    """Compiled against eager, and greedy tokens against transformers' own; what differs is an AssertionError."""
    shape = Workload("correctness", TINY if setting.small else SMALL, 3, 4, (6, 80), (4, 24), beta=0.04)
    with tempfile.TemporaryDirectory() as folder:
        from versus.workloads import write_model

        model = write_model(shape, Path(folder))
        loss, gradient = _compiled_against_eager(shape, model, setting.device)
        replayed = max(_replayed_against_usual(shape, model, setting.device))
        same, rows = _greedy_rows(shape, model, setting.device)
    assert max(loss, gradient) <= TOLERANCE, f"compiled and eager differ: loss {loss:.1e}, gradient {gradient:.1e}"
    assert replayed <= TOLERANCE, f"replayed and usual passes differ: {replayed:.1e}"
    assert same == rows, f"{rows - same} of {rows} greedy completions are not those of transformers"
    return [
        Row("compiled against eager, loss", loss, TOLERANCE),
        Row("compiled against eager, gradient", gradient, TOLERANCE),
        Row("passes replayed against usual ones, loss or gradient", replayed, TOLERANCE),
        Row("greedy completions as transformers'", same, rows),
    ]


def _compiled_against_eager(workload: Workload, model: Path, device: str) -> tuple[float, float]:
    from versus.agreement import compare

    return compare(*(_learnt(workload, model, device, 1, mode=mode) for mode in ("auto", "eager")))


def _replayed_against_usual(workload: Workload, model: Path, device: str) -> tuple[float, float]:
    """After the same batch 20 times, so that every bucket was captured; on a CPU nothing is replayed."""
    from versus.agreement import compare

    import dovetail as dt

    settings = (dt.TrainSettings(passes=passes) for passes in (("capture",), ()))
    return compare(*(_learnt(workload, model, device, 20, settings=each) for each in settings))


def _learnt(workload: Workload, model: Path, device: str, times: int, **how: Any) -> tuple[float, Any]:
    """Loss and gradient of one batch, the last of several times."""
    from versus import dovetail_side
    from versus.agreement import replay
    from versus.workloads import completions, gradients, perturb

    import dovetail as dt

    policy = dt.Agent(model, device=device, trainable=True, generator=replay(completions(workload)))
    compiled = dt.compile(
        dt.recipes.grpo(group_size=workload.group, beta=workload.beta), policy=policy,
        ref_policy=dt.Agent(model, device=device), rewards=[dovetail_side.odd_share],
        sampling=dt.Sampling(max_tokens=workload.completion_tokens[1]), **how,
    )  # fmt: skip
    perturb(policy.model)
    collected = compiled.collect(prompts=dovetail_side.tasks(workload), seed=0)
    metrics = [compiled.learn(collected, update=False) for _ in range(times)][-1]
    return metrics["loss"], gradients(policy.model)


def _greedy_rows(workload: Workload, model: Path, device: str) -> tuple[int, int]:
    """Rows that are the same, and all rows. A row may part from its twin where two tokens are equally likely."""
    import torch
    from versus import dovetail_side

    import dovetail as dt

    found = []
    for generator in ("native", "transformers"):
        agent = dt.Agent(model, device=device, generator=generator)
        prompts = agent.encode(dovetail_side.tasks(workload))
        sampling = dt.Sampling(max_tokens=workload.completion_tokens[1], temperature=0.0)
        generated = agent.generate(prompts, 2, sampling, torch.zeros(2 * len(prompts), dtype=torch.int64))
        rows = zip(generated.completions.tolist(), generated.logprobs.tolist(), strict=True)
        found.append([list(zip(*row, strict=True)) for row in rows])
    return sum(map(_same, *found)), len(found[0])


def _same(ours: list[tuple[int, float]], theirs: list[tuple[int, float]]) -> bool:
    parting = next((pair for pair in zip(ours, theirs, strict=False) if pair[0][0] != pair[1][0]), None)
    if parting is None:
        return len(ours) == len(theirs)
    return abs(parting[0][1] - parting[1][1]) < TIE


# ---- the peer


def versus(setting: Setting) -> list[Row]:
    """versus_trl.py, or its plain peer where TRL is not installed; a RuntimeError if it fails."""
    peer = "trl" if importlib.util.find_spec("trl") else "plain"
    keys = ["W1,prompts=2,group=2,completion_tokens=8"] if setting.small else []
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, str(HERE / "versus_trl.py"), "--device", setting.device, "--peer", peer]
        command += ["--rounds", str(setting.rounds), "--json", str(figures), *(["--only", *keys] if keys else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout)
        if done.returncode:
            raise RuntimeError(f"versus_trl.py --peer {peer} failed: {_last_lines(done.stderr)}")
        duels = json.loads(figures.read_text())
    return [Row(f"throughput over {peer}'s, {duel['workload']}", duel["throughput"]) for duel in duels] + [
        Row(f"peak memory over {peer}'s, {duel['workload']}", duel["memory"]) for duel in duels
    ]


# ---- real shapes


@attrs.frozen
class Qwen:
    """The shape of a Qwen2.5."""

    hidden: int
    layers: int
    heads: int
    keys: int
    intermediate: int
    vocabulary: int = 151_936

    def write(self, folder: Path, device: str, context: int) -> Path:
        """Random bfloat16 weights and a tokenizer whose words are the tokens."""
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM
        from versus.workloads import END, PAD, write_tokenizer

        config = Qwen2Config(
            hidden_size=self.hidden, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            num_key_value_heads=self.keys, intermediate_size=self.intermediate, vocab_size=self.vocabulary,
            tie_word_embeddings=True, max_position_embeddings=context, pad_token_id=PAD, eos_token_id=END,
            bos_token_id=None, dtype="bfloat16",
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(device):
            model = Qwen2ForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(folder)
        return write_tokenizer(self.vocabulary, folder)


SHAPES = {
    "qwen-0.5b": Qwen(hidden=896, layers=24, heads=14, keys=2, intermediate=4864),
    "qwen-1.5b": Qwen(hidden=1536, layers=28, heads=12, keys=2, intermediate=8960),
}
SMALL_SHAPE = Qwen(hidden=64, layers=2, heads=4, keys=2, intermediate=128, vocabulary=512)


def real_shape(name: str, setting: Setting) -> list[Row]:
    """Decoding against the memory's bandwidth, training against the rate of bfloat16 products, and the peak memory.

    Decoding is all of ``generate``, its prefill too; training is all that follows the rewards, the optimizer too.
    """
    import gc

    import torch
    from versus import dovetail_side
    from versus_trl import peak_mb

    from dovetail_benchmark.floor import Shape
    from dovetail_benchmark.machine import measure

    shape = SMALL_SHAPE if setting.small else SHAPES[name]
    prompts, group, prompt, completion = (2, 4, 16, 8) if setting.small else (16, 16, 256, 512)
    fits = Model(shape.hidden, shape.layers, shape.heads, shape.vocabulary)
    workload = Workload(name, fits, prompts, group, (prompt, prompt), (completion, completion))
    machine = measure(setting.device, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        model = shape.write(Path(folder), setting.device, context=prompt + completion + 8)
        gc.collect()
        if setting.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer = dovetail_side.make_trainer(
            workload, model, setting.device, setting.micro_batch_tokens, dtype="bfloat16"
        )
        steps = [trainer.step() for _ in range(setting.rounds + 1)][1:]
    counted = Shape.of(trainer.policy.model)
    assert counted is not None
    return _rows(workload, counted, machine, steps, peak_mb(setting.device), goals=not setting.small)


def _rows(
    workload: Workload, shape: Any, machine: Any, steps: list[dict[str, float]], peak: float, *, goals: bool
) -> list[Row]:
    from statistics import median

    from dovetail_benchmark.floor import Work, decode_bytes, forward_flops

    prompts, group, prompt, completion = (
        workload.prompts, workload.group, workload.prompt_tokens[0], workload.completion_tokens[0],
    )  # fmt: skip
    tokens = prompts * group * completion
    if any(step["tokens"] != tokens for step in steps):
        raise RuntimeError(f"a step was to sample {tokens} tokens, and sampled {[step['tokens'] for step in steps]}")
    generate = median(step["time/generate"] for step in steps)
    learn = median(sum(step.get(f"time/{name}", 0.0) for name in ("forward", "learn", "optimizer")) for step in steps)
    fastest = tokens * machine.bandwidth / decode_bytes(shape, prompts, group, prompt, completion, width=2)
    flops = 3 * forward_flops(shape, Work.even(prompts, group, prompt, completion)) / learn
    decode_goal, train_goal = (DECODE_GOAL, TRAIN_GOAL) if goals else (None, None)
    return [
        Row("decoded tokens/s, of what the bandwidth allows", tokens / generate, fastest, tokens / generate / fastest,
            decode_goal),
        Row("training TFLOP/s, of bfloat16 products", flops / 1e12, machine.flops / 1e12, flops / machine.flops,
            train_goal),
        Row("tokens/s of whole steps", tokens / median(step["time/step"] for step in steps)),
        Row("copies GB/s", machine.bandwidth / 1e9),
        Row("peak memory MB", peak),
    ]  # fmt: skip


# ---- the day


SECTIONS: dict[str, Callable[[Setting], list[Row]]] = {
    "correctness": correctness,
    "versus": versus,
    "qwen-0.5b": lambda setting: real_shape("qwen-0.5b", setting),
    "qwen-1.5b": lambda setting: real_shape("qwen-1.5b", setting),
}


def run_section(name: str, arguments: list[str], timeout: float) -> dict[str, Any]:
    """A section in a process of its own: its rows, or the error that it ended with."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, __file__, *arguments, "--section", name, "--rows", str(file)]
        environment = {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
            error = _last_lines(done.stderr) or f"exit status {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired:
            error = f"it took more than {timeout:g} s"
        result = {"status": "failed", "error": error} if error else {"status": "ok", **json.loads(file.read_text())}
    return {**result, "seconds": round(time.perf_counter() - started, 1)}


def _last_lines(text: str, count: int = 5) -> str:
    lines = [line for line in text.splitlines() if line.strip() and "it/s]" not in line]
    return "\n".join(lines[-count:])


def table(sections: dict[str, dict[str, Any]]) -> str:
    """One table of all sections; a failed one has the last line of its error."""
    lines = ["| section | measure | value | limit | share | goal | |", "|---|---|---:|---:|---:|---:|---|"]
    for name, section in sections.items():
        if section["status"] == "failed":
            last = section["error"].splitlines()[-1].replace("|", "\\|")
            lines.append(f"| {name} | FAILED: {last} | | | | | |")
        for plain in section.get("rows", []):
            row = Row(**plain)
            limit = "" if row.limit is None else f"{row.limit:.4g}"
            share = "" if row.share is None else f"{row.share:.1%}"
            goal = "" if row.goal is None else f"{row.goal:.0%}"
            lines.append(f"| {name} | {row.measure} | {row.value:.4g} | {limit} | {share} | {goal} | {row.verdict} |")
    return "\n".join(lines)


def describe(device: str) -> dict[str, Any]:
    """Date, device, versions."""
    import torch

    has_cuda = device != "cpu" and torch.cuda.is_available()
    name = torch.cuda.get_device_name(device) if has_cuda else platform.processor() or platform.machine()
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for distribution in VERSIONS:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[distribution] = None
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "device": device, "device_name": name, "versions": versions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes, to try the code; goals do not apply")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON file")
    parser.add_argument("--rounds", type=int, default=3, help="steps that count; one more warms up")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384, help="less needs less memory")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for a section")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    setting = Setting(arguments.device, arguments.small, arguments.rounds, arguments.micro_batch_tokens)
    if arguments.section:
        rows = SECTIONS[arguments.section](setting)
        arguments.rows.write_text(json.dumps({"rows": [attrs.asdict(row) for row in rows]}))
        return 0
    passed_on = ["--device", setting.device, *(["--small"] if setting.small else [])]
    passed_on += ["--rounds", str(setting.rounds), "--micro-batch-tokens", str(setting.micro_batch_tokens)]
    sections = {}
    for name in arguments.only:
        sections[name] = run_section(name, passed_on, arguments.timeout)
        print(f"{name}: {sections[name]['status']}, {sections[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
    facts = describe(arguments.device)
    slug = re.sub(r"\W+", "-", f"{facts['device_name']} {facts['date']}").strip("-").lower()
    path = arguments.out / f"gpu-day-{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "setting": attrs.asdict(setting), "sections": sections}, indent=2) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    print(f"{facts['date']}, {facts['device_name']}; {versions}\n\n{table(sections)}\n\nwritten to {path}")
    return 1 if any(section["status"] == "failed" for section in sections.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
