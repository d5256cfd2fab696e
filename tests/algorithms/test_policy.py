"""Every policy algorithm trains from a file and from Python, and its presets apply."""

from __future__ import annotations

import json

import pytest
from parts_of_tests import tiny_policy

import dovetail as dt
from dovetail.errors import ConfigError
from dovetail_trainer.cli.main import main
from dovetail_trainer.config.build import build
from dovetail_trainer.config.load import load

ALGORITHMS = {
    "grpo": "preset: verl",
    "cispo": "minibatches: 2",
    "clip-cov": "share: 0.1, low: 0.0",
    "dapo": "max_draws: 2, overlong_limit: 4",
    "dr-grpo": "norm: 4.0",
    "gdpo": "",
    "gmpo": "beta: 0.1",
    "gspo": "level: token",
    "kimi": "minibatches: 2",
    "kl-cov": "share: 0.1, minibatches: 2",
    "maxrl": "",
    "opo": "",
    "reinforce": "gamma: 0.9",
    "reinforce-plus-plus": "kl_coef: 0.1",
    "reinforce-plus-plus-baseline": "beta: 0.1",
    "remax": "kl_coef: 0.1",
    "rloo": "kl_coef: 0.1",
    "sapo": "epochs: 2",
}
FILE = """
algorithm: {{use: {name}, {options}}}
policy: {{tiny: {{hidden: 16, layers: 1, heads: 2}}, optimizer: {{lr: 0.01}}}}
environment: {{use: math, levels: [addition], digits: 1, final_answer: whole}}
steps: 2
batch_size: 4
sampling: {{max_tokens: 4}}
run_dir: run
"""


@pytest.mark.parametrize(("name", "options"), ALGORITHMS.items())
def test_it_trains_from_a_file_and_its_run_can_be_resumed(name, options, tmp_path, monkeypatch):
    """Two steps, then two more from the folder, which names the recipe as it is registered."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(FILE.format(name=name, options=options))
    build(load("run.yaml")).fit(2)
    written = json.loads((tmp_path / "run/config.json").read_text())["algorithm"]
    assert written["use"] == ("grpo-verl" if "preset" in options else name)
    resumed = dt.Trainer.resume("run")
    resumed.fit(4)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_compiled_equals_eager(name):
    """Loss and gradient norm of the compiled run are those of node-by-node execution."""

    def run(mode):
        policy = tiny_policy(dtype="float64")
        compiled = dt.compile(
            name, policy=policy, ref_policy=policy.frozen(), rewards=[lambda texts: [float("1" in t) for t in texts]],
            mode=mode, beta=0.1, sampling=dt.Sampling(max_tokens=6),
        )  # fmt: skip
        metrics = compiled.run(prompts=["1+1=", "a longer prompt", "zz"])
        return {key: value for key, value in metrics.items() if not key.startswith("time/")}

    assert run("auto") == pytest.approx(run("eager"), rel=1e-6, abs=1e-9)


def test_describe_shows_a_preset_in_words_and_symbols(capsys):
    """The formula, what changes from ours, and what changes from the others."""
    assert main(["describe", "recipes", "grpo", "--preset", "nemo"]) == 0
    told = capsys.readouterr().out
    assert "A = (R − mean of the others) / (std of the others + 1e-06)" in told
    assert "L = −min(r A, clip(r, 0.8, 1.2) A), r = exp(lp − old)" in told
    assert "changed from grpo:\n  ~ completions.samples: 8 -> 16" in told
    assert "changed from grpo-prime-rl:" in told


def test_a_preset_that_is_not_there_is_a_mistake_with_its_line(tmp_path):
    """In a file, and by name."""
    (tmp_path / "run.yaml").write_text(FILE.format(name="grpo", options="preset: ver"))
    with pytest.raises(ConfigError, match=r"no recipes part is named 'grpo-ver', did you mean 'grpo-verl'.*run.yaml:2"):
        load(tmp_path / "run.yaml")
