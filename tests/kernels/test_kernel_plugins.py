"""Kernel plugins beside others: a package from the template fuses with repetition in a real run; the benchmark runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dovetail as dt
from dovetail.benchmark import KernelBenchmark
from dovetail.errors import UserError
from dovetail_benchmark.kernels import installed
from dovetail_kernels import fusion
from dovetail_trainer.cli.main import main

CONFIGURATION = """
algorithm: {use: grpo, group_size: 2}
policy: {tiny: {hidden: 16, layers: 1, heads: 2}}
environment: {use: math, digits: 1}
rewards: [{use: repetition, n: 2, weight: 0.5}, {use: format, pattern: x}, {use: new-kernel, weight: 0.5}]
steps: 2
batch_size: 2
sampling: {max_tokens: 8}
extensions: [{use: "told.py:Told"}]
run_dir: run
"""
TOLD = """
import dovetail as dt


class Told:
    @dt.hookimpl
    def on_run_start(self, run):
        print(run.compiled.explain())
"""


def run(command: list[str], site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where a package from the template is installed."""
    folder = tmp_path_factory.mktemp("packages")
    assert main(["new", "kernel", "new-kernel", "--path", str(folder)]) == 0
    command = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    finished = run([*command, str(folder / "dovetail-new-kernel")], folder / "site", folder)
    assert finished.returncode == 0, finished.stderr
    return folder / "site"


@pytest.mark.slow
def test_a_new_kernel_passes_its_own_tests(site):
    """Outside the repository, the kernel's gates included."""
    package = site.parent / "dovetail-new-kernel"
    finished = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(package)], site, package)
    assert finished.returncode == 0, finished.stdout[-3000:]


def test_a_new_kernel_fuses_with_repetition_in_a_real_run(site, tmp_path):
    """From a file; the run tells the launch, and each reward is in the metrics."""
    (tmp_path / "run.yaml").write_text(CONFIGURATION)
    (tmp_path / "told.py").write_text(TOLD)
    finished = run(["-c", "from dovetail_trainer.cli.main import run; run()", "train", "run.yaml"], site, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "fuse: reward_repetition + reward_new-kernel are one launch" in finished.stdout, finished.stdout
    metrics = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    assert {"reward/repetition", "reward/new-kernel", "reward/format"} <= metrics.keys()


def test_four_kernels_and_a_reward_in_python_are_one_launch_plus_one(monkeypatch):
    """With explain() to say so, and the metrics of the eager run, which launches each by itself."""
    launched = []
    launch = fusion.launch

    def counting(calls, *rest, **options):
        launched.append(len(calls))
        return launch(calls, *rest, **options)

    monkeypatch.setattr("dovetail_kernels.fusion.launch", counting)
    monkeypatch.setattr("dovetail_kernels.launch.launch", counting)
    metrics = {}
    for mode in ("auto", "eager"):
        policy = dt.Agent.tiny(hidden=16, layers=1, heads=2, generator="native", trainable=True)
        rewards = [
            dt.rewards.repetition(n=2, weight=0.5),
            dt.rewards.diversity(weight=0.25),
            dt.rewards.patterns(patterns=["e", "1"], tokenizer=policy.tokenizer, weight=-0.5),
            dt.rewards.toxicity(words=["a", "b"], tokenizer=policy.tokenizer),
            dt.rewards.format(pattern="[a-m].*"),
        ]
        compiled = dt.compile("grpo", policy=policy, ref_policy=policy.frozen(), rewards=rewards, mode=mode)
        metrics[mode] = compiled.run(prompts=["1+1=", "2+3="], seed=5)
        if mode == "auto":
            kernels = "reward_repetition + reward_diversity + reward_patterns + reward_toxicity"
            told = [line for line in compiled.explain().splitlines() if line.startswith("fuse:")]
            assert told == [
                f"fuse: {kernels} are one launch over completions of completions, on cpu",
                "fuse: reward_format runs apart: it is host code",
            ]
            assert launched == [4]
    assert launched == [4, 1, 1, 1, 1]
    names = [name for name in metrics["auto"] if not name.startswith("time/")]
    assert {f"reward/{name}" for name in ("repetition", "diversity", "patterns", "toxicity", "format")} <= set(names)
    expected = {name: metrics["eager"][name] for name in names}
    assert {name: metrics["auto"][name] for name in names} == pytest.approx(expected, abs=1e-6)
    assert len({value for name, value in expected.items() if name.startswith("reward/")}) > 3


def test_the_benchmark_compares_every_way_to_compute_a_kernel(tmp_path, capsys):
    """As a table, as JSON, as a picture."""
    json_file, picture = tmp_path / "kernels.json", tmp_path / "kernels.png"
    arguments = ["--sizes", "4x32,8x64", "--json", str(json_file), "--picture", str(picture)]
    assert main(["bench", "kernels", "repetition", *arguments]) == 0
    told = capsys.readouterr().out
    assert "| repetition | 8 × 64 |" in told
    assert "Python / C++" in told
    timings = json.loads(json_file.read_text())["timings"]
    assert {t["back_end"] for t in timings} >= {"python", "torch", "cpu"}
    assert all(t["seconds"] > 0 for t in timings)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("arguments", "problem"), [
    (["kernels", "format"], "has no kernel"),
    (["kernels", "repetitoin"], "did you mean 'repetition'"),
    (["kernels", "--sizes", "8"], "'8' is no size"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(arguments, problem, capsys):
    """With the way out."""
    assert main(["bench", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_only_parts_with_a_kernel_are_listed():
    """A reward in Python is none."""
    assert "repetition" in installed()
    assert "format" not in installed()
    with pytest.raises(UserError, match="has no kernel"):
        KernelBenchmark().compare("length" if "length" not in installed() else "format")


def test_the_core_says_where_kernels_come_from(tmp_path):
    """A run of Python without dovetail-kernels is told the extra."""
    code = (
        "import os; os.environ['DOVETAIL_ALONE'] = 'dovetail-core'\nimport hide_siblings, dovetail as dt\n"
        "try: dt.kernel_op\nexcept dt.UserError as error: print(error)"
    )
    finished = run(["-c", code], Path(__file__).parents[1] / "tools", tmp_path)
    assert 'pip install "dovetail[kernels]"' in finished.stdout, finished.stderr
    assert dt.kernel_op
