"""Whole pipelines on tiny models: stage after stage, killed and resumed, skipped and replaced, with a page at the end."""

import json
import os
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dovetail.errors import DataError, TooManyInvalid
from dovetail_rlhf.pipeline import Pipeline
from dovetail_rlhf.reading import read, read_again
from dovetail_trainer.cli.main import main

TEXT_FILES = ("metrics.jsonl", "rows.jsonl", "work.jsonl", "answers-0.jsonl", "answers-1.jsonl")


class Page(HTMLParser):
    """What a page consists of; a tag that is not closed is an error."""

    VOID = {"meta", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.links = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)


def run(file, *overrides):
    return Pipeline(read(file, overrides), tell=lambda _: None).run()


def contents(directory):
    """All that a pipeline came to, but for times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.name == "model.safetensors" and path.parent.name == "final":
            found[name] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [(line["step"], line["metrics"]) for line in lines]
        elif path.name in TEXT_FILES:
            found[name] = path.read_text()
        elif path.name == "stage.json":
            found[name] = json.loads(path.read_text())["figures"]
    return found


def test_it_goes_from_demonstrations_to_an_evaluated_policy(configured, capsys):
    """One command; each stage has its figures, and the page shows all of them."""
    file, directory = configured()
    assert main(["pipeline", str(file)]) == 0
    told = capsys.readouterr().out
    assert "[4/5] ppo: ppo, 3 steps" in told
    figures = {path.parent.name: json.loads(path.read_text())["figures"] for path in directory.glob("*/stage.json")}
    assert set(figures) == {"sft", "reward-model", "ranking", "ppo", "evaluation"}
    assert 0 <= figures["ranking"]["accuracy/reward-model"] <= 1
    assert figures["evaluation"]["kl/ppo"] != 0
    assert 0 <= figures["evaluation"]["win_rate/ppo"] <= 1
    assert "kl/sft" not in figures["evaluation"]
    page = Page((directory / "report.html").read_text())
    assert {f"stage-{name}" for name in figures} <= set(page.ids)
    assert page.tags.count("svg") > 10
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert main(["pipeline", str(file)]) == 2
    assert "holds a pipeline already" in capsys.readouterr().err


def test_what_models_say_cannot_break_the_page(configured, stages, tmp_path):
    """Samples are text, whatever stands in them."""
    odd = tmp_path / "odd.jsonl"
    odd.write_text(json.dumps({"prompt": "<script>alert(1)</script>"}) + "\n")
    tiny = {"tiny": {"hidden": 16, "layers": 1, "heads": 2}}
    drafts = {"make": "sample", "policy": tiny, "data": {"path": str(odd)}, "sampling": {"max_tokens": 4}}
    file, directory = configured(chosen={"drafts": drafts})
    run(file)
    text = (directory / "report.html").read_text()
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;alert(1)" in text


def start(*arguments):
    command = [sys.executable, "-c", "from dovetail_trainer.cli.main import run; run()", "pipeline", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def kill_when(process, is_time):
    """SIGKILL as soon as ``is_time()``; the process must not have ended before."""
    while not is_time():
        assert process.poll() is None, process.stderr.read().decode()
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_inside_and_between_stages_it_ends_as_if_it_had_not_been(configured, stages):
    """Killed in sft, after the reward model, in ppo and in the evaluation: weights, metrics and samples are the same."""
    for name in ("sft", "ppo"):
        stages[name].update(steps=12, checkpoint_every=2)
    stages["evaluation"]["batch_size"] = 1
    whole_file, whole = configured("whole")
    process = start(str(whole_file))
    assert process.wait(120) == 0, process.stderr.read().decode()
    file, cut = configured("cut")
    moments = [
        lambda: lines(cut / "sft" / "metrics.jsonl") >= 5,
        lambda: (cut / "reward-model" / "stage.json").exists(),
        lambda: lines(cut / "ppo" / "metrics.jsonl") >= 3,
        lambda: lines(cut / "evaluation" / "answers-1.jsonl") >= 1,
    ]
    process = start(str(file))
    for moment in moments:
        kill_when(process, moment)
        process = start("--resume", str(cut))
    assert process.wait(120) == 0, process.stderr.read().decode()
    expected = contents(whole)
    assert contents(cut) == expected
    assert sum(name.endswith("model.safetensors") for name in expected) == 3


@pytest.fixture
def letters(tmp_path):
    """A reward of the user's own: it counts the letter a, and cannot judge what holds a d."""
    (tmp_path / "mine.py").write_text(
        "from dovetail import Invalid\n"
        "def letters(texts):\n"
        "    return [Invalid('it holds a d') if 'd' in text else float(text.count('a')) for text in texts]\n"
    )
    return [{"use": "mine.py:letters"}]


def test_a_stage_goes_on_where_it_was(configured, stages, letters, monkeypatch):
    """Finished stages are not run again, finished lines are kept, and the rest is as if nothing had happened."""
    evaluation = {**stages["evaluation"], "rewards": letters, "batch_size": 1, "max_invalid": 1.0}
    evaluation["agents"] = {"sft": {"model": {"stage": "sft"}}, "more": {"model": {"stage": "more"}}}
    more = {**stages["sft"], "policy": {"model": {"stage": "sft"}}, "steps": 1}
    chosen = {"sft": stages["sft"], "more": more, "evaluation": evaluation}
    expected = run(configured("whole", chosen)[0])
    file, cut = configured("cut", chosen)
    from dovetail_rlhf.steps import evaluate

    entry, calls = evaluate._entry, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return entry(*arguments)

    monkeypatch.setattr(evaluate, "_entry", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(file)
    with (cut / "evaluation" / "answers-1.jsonl").open("a") as half:
        half.write('{"prompt": "half a li')
    before = (cut / "more" / "stage.json").stat().st_mtime_ns
    assert Pipeline(read_again(cut), tell=lambda _: None).run() == expected
    assert len(calls) == 7, "the first model's answers, and the line that was done, are made again"
    assert (cut / "more" / "stage.json").stat().st_mtime_ns == before


def test_stages_are_replaced_and_skipped(configured, stages, inputs):
    """What an earlier pipeline made is taken in the place of the stages that made it."""
    stages["sft"]["steps"] = 2
    file, first = configured("first")
    run(file, "stages.ppo.skip=true", "stages.evaluation.skip=true")
    replaced = [f"stages.{name}.replace={first / name / 'final'}" for name in ("sft", "reward-model")]
    file, second = configured("second")
    found = run(file, *replaced, "stages.ranking.skip=true")
    assert set(found) == {"ppo", "evaluation"}
    assert not (second / "sft").exists()
    text = (second / "report.html").read_text()
    assert "replaced by" in text
    assert "skipped" in text


def test_a_reward_model_that_gives_nan_stops_its_stage_and_loses_nothing(configured, tmp_path, capsys):
    """The error names the stage and the cause; mended, the pipeline goes on."""
    file, directory = configured()
    run(file, "stages.ppo.skip=true", "stages.evaluation.skip=true")
    good = directory / "reward-model" / "final" / "value_head.safetensors"
    weights = load_file(good)
    file, second = configured("second")
    replaced = [f"stages.{name}.replace={directory / name / 'final'}" for name in ("sft", "reward-model")]
    save_file({name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}, good)
    settings = [part for override in [*replaced, "stages.ranking.skip=true"] for part in ("--set", override)]
    assert main(["pipeline", str(file), *settings]) == 1
    told = capsys.readouterr().err
    assert "the stage 'ppo'" in told
    assert "have no valid reward" in told
    assert f"--resume {second}" in told
    assert "failed" in (second / "report.html").read_text()
    save_file(weights, good)
    assert main(["pipeline", "--resume", str(second)]) == 0


def test_preferences_are_made_of_valid_judgements_alone(configured, stages, inputs, letters):
    """What cannot be judged is counted and left out, ties too; the pairs teach dpo."""
    prefer = {"make": {"use": "prefer", "samples": 6, "pairs": "all"}, "policy": {"model": {"stage": "sft"}},
              "data": {"path": inputs["prompts"]}, "rewards": letters, "max_invalid": 1.0,
              "sampling": {"max_tokens": 4}, "batch_size": 2}  # fmt: skip
    dpo = {
        "algorithm": "dpo",
        "policy": {"model": {"stage": "sft"}},
        "data": {"path": {"stage": "preferences"}},
        "steps": 2,
    }
    file, directory = configured(chosen={"sft": stages["sft"], "preferences": prefer, "dpo": dpo})
    found = run(file)["preferences"]
    rows = [json.loads(line) for line in (directory / "preferences" / "rows.jsonl").read_text().splitlines()]
    assert found["rows"] == len(rows) > 0
    assert found["left_out/invalid judgements"] > 0
    assert found["left_out/ties"] > 0
    assert not any("d" in row["chosen"] + row["rejected"] for row in rows)
    assert all(row["chosen"].count("a") - row["rejected"].count("a") == row["margin"] > 0 for row in rows)
    invalid = [json.loads(line) for file in (directory / "preferences" / "invalid").iterdir() for line in file.open()]
    assert len(invalid) == found["left_out/invalid judgements"]


def test_answers_are_criticised_and_revised(configured, stages, inputs):
    """By a local voice; what is learnt is the revision, the draft stays beside it."""
    voice = {"agent": {"model": {"stage": "sft"}}, "max_tokens": 6, "temperature": 1.0}
    stages["sft"]["policy"]["tiny"] = {**stages["sft"]["policy"]["tiny"], "context": 512}
    chosen = {
        "sft": stages["sft"],
        "drafts": {"make": "sample", "policy": {"model": {"stage": "sft"}}, "data": {"path": inputs["prompts"]},
                   "sampling": {"max_tokens": 4}},
        "critiques": {"make": {"use": "critique", "voice": voice, "principles": ["Be brief.", "Be kind."]},
                      "data": {"path": {"stage": "drafts"}}, "max_invalid": 1.0},
        "revisions": {"make": {"use": "revise", "voice": voice}, "data": {"path": {"stage": "critiques"}},
                      "max_invalid": 1.0},
    }  # fmt: skip
    file, directory = configured(chosen=chosen)
    found = run(file)
    drafts = [json.loads(line) for line in (directory / "drafts" / "rows.jsonl").read_text().splitlines()]
    revised = [json.loads(line) for line in (directory / "revisions" / "rows.jsonl").read_text().splitlines()]
    assert found["revisions"]["rows"] == len(revised) > 0
    assert {row["draft"] for row in revised} <= {row["completion"] for row in drafts}
    assert {row["principle"] for row in revised} <= {"Be brief.", "Be kind."}
    assert run(configured("again", chosen=chosen)[0]) == found


def test_a_voice_that_is_down_stops_the_stage_until_it_is_back(configured, stages, inputs):
    """Nothing is written for questions that nobody answered, and they are asked again on a resume."""
    voice = {"url": "http://127.0.0.1:9", "model": "none", "retries": 0, "timeout": 2.0, "deadline": 3.0}
    chosen = {"critiques": {"make": {"use": "critique", "voice": voice, "principles": ["Be brief."]},
                            "data": {"path": inputs["demonstrations"]}}}  # fmt: skip
    file, directory = configured(chosen=chosen)
    with pytest.raises(TooManyInvalid, match="have no answer") as error:
        run(file)
    assert "the stage 'critiques'" in str(error.value)
    assert lines(directory / "critiques" / "work.jsonl") == 0


def test_a_stage_that_makes_nothing_says_so(configured, stages, inputs, tmp_path):
    """With what was left out, instead of an empty file for the next stage."""
    (tmp_path / "mine.py").write_text("def same(texts):\n    return [1.0 for _ in texts]\n")
    prefer = {"make": "prefer", "policy": {"model": {"stage": "sft"}}, "data": {"path": inputs["prompts"]},
              "rewards": [{"use": "mine.py:same"}], "sampling": {"max_tokens": 4}}  # fmt: skip
    file, _ = configured(chosen={"sft": stages["sft"], "preferences": prefer})
    with pytest.raises(DataError, match="made no row of 3 inputs; left out: 3 ties"):
        run(file)


def test_lora_learns_from_the_merged_model_of_sft(configured, stages, letters):
    """The adapters are merged into what ppo gives, and stand beside it."""
    pytest.importorskip("peft")
    ppo = {**stages["ppo"], "rewards": letters, "max_invalid": 1.0}
    ppo["policy"] = {**ppo["policy"], "lora": {"rank": 2}}
    ppo["agents"] = {"value_model": {"model": {"stage": "sft"}, "head": "value"}}
    file, directory = configured(chosen={"sft": stages["sft"], "ppo": ppo})
    assert "ppo with LoRA" in read(file).stages[1].about
    run(file)
    assert (directory / "ppo" / "final" / "adapter").is_dir()
    weights = [load_file(directory / name / "final" / "model.safetensors") for name in ("sft", "ppo")]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
