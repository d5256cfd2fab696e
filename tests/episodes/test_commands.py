"""From a file to a run of many turns, and what the commands show of it."""

from __future__ import annotations

import json

import pytest

import dovetail as dt
from dovetail import Generated, Ragged, hookimpl
from dovetail_trainer.cli.main import main

WORLD = "{use: tools, call_format: terse, digits: 1, size: 300, final_answer: whole, step_reward: 0.25, max_turns: 4"
CONFIG = f"""
algorithm: {{use: grpo, group_size: 4}}
policy:
  tiny: {{hidden: 16, layers: 1, heads: 2, context: 96, characters: "0123456789+-*()[]= "}}
  optimizer: {{lr: 1.0e-3}}
  generator: PLAYER
environment: {WORLD}, levels: [one_step, two_step]}}
episodes: {{max_tokens: 24, patience: null}}
steps: 2
batch_size: 3
sampling: {{max_tokens: 6}}
evaluate_every: 2
evaluate_tasks: 8
run_dir: run
threads: 1
"""


class Player:
    """Knows the solutions, and gives them in every second sample; else it says 1."""

    @hookimpl
    def generate(self, tokenizer, prompts, samples, seeds):
        import torch

        known = {task.messages[0].content: task for task in _tasks()}
        rows = []
        for place, seed in enumerate(seeds.tolist()):
            heard, *said = tokenizer.decode(prompts[place // samples], skip_special_tokens=False).split("<end>")
            task = next(known[text] for text in known if heard.startswith(f"{text}["[:-1]) and _is_start(heard, text))
            turns = [*(f"[{call}]" for call in task.columns["calls"]), task.answer]
            text = turns[len(said)] if seed % 2 or said else "1"
            rows.append([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
        completions = Ragged.from_rows(rows, dtype=torch.int64)
        return Generated(
            completions, completions.with_values(-torch.ones(len(completions.values))), ("stop",) * len(rows)
        )


def _is_start(heard, text):
    return heard[len(text) :][:1] in ("", "[")


def _tasks():
    part = dt.environments.tools(call_format="terse", digits=1, size=300, levels=["one_step", "two_step"])
    return [task for split in ("train", "test") for task in part.call("tasks", {"split": split})]


@pytest.fixture
def config(tmp_path, monkeypatch, register):
    """A file, and a policy that plays by the book half of the time."""
    register("generators", "player", Player)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG.replace("PLAYER", "player"))
    return "run.yaml"


def test_a_run_trains_on_whole_episodes_and_is_repeated_exactly(tmp_path, monkeypatch):
    """From YAML, with an unchanged recipe and the native generator; the same seed gives the same numbers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG.replace("PLAYER", "native"))
    lines = []
    for name in ("one", "two"):
        assert main(["train", "run.yaml", "--set", f"run_dir={name}"]) == 0
        lines.append(
            [json.loads(line)["metrics"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        )
    assert lines[0] == lines[1]
    assert {"rollout/turns", "rollout/tool_calls", "reward/tools", "eval/reward"} <= lines[0][-1].keys()


def test_rollouts_shows_turns_calls_rewards_and_origins(config, capsys):
    """In colour where it is asked for."""
    assert main(["train", config]) == 0
    capsys.readouterr()
    assert main(["rollouts", "run", "--limit", "12"]) == 0
    shown = capsys.readouterr().out
    assert "2 turns, 1 answers of tools" in shown or "3 turns, 2 answers of tools" in shown
    assert "sampled, turn 1, reward 0.25" in shown
    assert "  tool\n" in shown
    assert "\033[" not in shown
    assert main(["rollouts", "run", "--colour", "always"]) == 0
    assert "\033[32msampled, turn 1" in capsys.readouterr().out


def test_eval_tells_pass_at_k_by_type(config, capsys):
    """The player succeeds in half of its samples, so one of four almost always does."""
    command = ["eval", config, "--tasks", "20", "--samples", "4", "--k", "1,4", "--success", "tools.correct", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["invalid"] == 0
    assert {"all", "one_step", "two_step"} == told["success"].keys()
    everything = told["success"]["all"]
    assert 0.3 < everything["pass@1"]["mean"] < 0.7
    assert everything["pass@4"]["mean"] > 0.8
    assert everything["pass@1"]["low"] < everything["pass@1"]["mean"] < everything["pass@1"]["high"]
    assert everything["pass@1"]["tasks"] == 20


def test_eval_compares_with_a_baseline(config, capsys, tmp_path):
    """On the same tasks and seeds, so a model against itself differs in nothing."""
    dt.Agent.tiny(hidden=16, layers=1, heads=2, context=96, characters="0123456789+-*()[]= ").save(tmp_path / "model")
    assert main(["eval", config, "--tasks", "8", "--samples", "2", "--model", "model", "--baseline", "model"]) == 0
    assert "difference@1     0.000 [0.000, 0.000]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "4"], "pass@4 needs 4 samples"),
        (["--k", "many"], "--k needs whole numbers"),
        (["--success", "charm"], "there is no reward 'charm'"),
        (["--by", "colour"], "has no column 'colour'"),
        (["--set", "environment=null"], "names no environment"),
        (["--tasks", "0"], "--tasks must be at least 1"),
        (["--split", "dev"], "the dev split"),
    ],
)
def test_eval_tells_what_is_wrong_with_its_words(config, capsys, words, message):
    """With exit code 2."""
    assert main(["eval", config, *words]) == 2
    assert message in capsys.readouterr().err


def test_collect_writes_rows_that_sft_learns_from(config, capsys, tmp_path):
    """Only the good ones, if so told: rejection sampling in two commands."""
    words = ["--tasks", "10", "--samples", "4", "--at-least", "1.0", "--with-tokens"]
    assert main(["collect", config, "--out", "rows.jsonl", *words]) == 0
    assert "below" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert row["reward"] >= 1.0
        assert [message["role"] for message in row["messages"]][:3] == ["user", "assistant", "tool"]
        assert row["origin"].count(1) == len(row["sampled_logprobs"])
        assert len(row["tokens"]) == len(row["origin"])
        assert sum(row["step_rewards"]) == pytest.approx(row["reward"])
    assert main(["collect", config, "--out", "rows.jsonl"]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "sft.yaml").write_text(
        'algorithm: sft\npolicy: {tiny: {hidden: 16, layers: 1, heads: 2, characters: "0123456789+-*()[]= "}}\n'
        "data: rows.jsonl\nsteps: 1\nbatch_size: 2\nrun_dir: sft\n"
    )
    assert main(["train", "sft.yaml"]) == 0


def test_collect_with_nothing_to_keep_says_so(config, capsys):
    """And fails."""
    assert main(["collect", config, "--out", "rows.jsonl", "--tasks", "2", "--at-least", "99"]) == 1
    assert "no episode is good enough" in capsys.readouterr().err
