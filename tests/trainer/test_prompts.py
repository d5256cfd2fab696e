"""Prompts from a file, for recipes that sample: without an environment, and the run can be resumed."""

import json

import pytest

import dovetail as dt
from dovetail.errors import ConfigError, DataError
from dovetail.messages import Message, ToolCall
from dovetail_trainer.config.build import build
from dovetail_trainer.config.load import load

REWARD = "def wanted(texts, tasks):\n    return [float(word in text) for word, text in zip(tasks['wanted'], texts)]\n"


@pytest.fixture
def configured(tmp_path):
    """A grpo run on rows with prompts and a column that its reward reads."""
    (tmp_path / "mine.py").write_text(REWARD)

    def do(rows, name="run"):
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = {
            "algorithm": {"use": "grpo", "group_size": 2}, "data": {"path": str(tmp_path / "prompts.jsonl")},
            "policy": {"tiny": {"hidden": 16, "layers": 1, "heads": 2}, "optimizer": {"lr": 1e-2}},
            "rewards": ["mine.py:wanted"], "steps": 4, "batch_size": 2, "checkpoint_every": 2,
            "sampling": {"max_tokens": 3}, "run_dir": str(tmp_path / name),
        }  # fmt: skip
        (tmp_path / "run.json").write_text(json.dumps(words))
        return build(load(tmp_path / "run.json"))

    return do


def test_a_file_of_prompts_feeds_a_recipe_that_samples(configured, tmp_path):
    """Its columns reach the rewards, and a resumed run is what an unbroken one is."""
    rows = [{"prompt": f"{n}+1=", "wanted": str(n + 1)} for n in range(5)]
    rows.append({"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}], "wanted": "2"})
    expected = configured(rows, "whole").fit(4)
    configured(rows, "cut").fit(2)
    resumed = dt.Trainer.resume(tmp_path / "cut").fit(4)
    assert resumed["loss"] == expected["loss"]
    assert resumed["reward"] == expected["reward"]
    samples = [json.loads(line) for file in (tmp_path / "whole" / "rollouts").iterdir() for line in file.open()]
    assert {sample["columns"]["wanted"] for sample in samples} <= {"1", "2", "3", "4", "5"}


def test_pairs_have_prompts_too(configured):
    """What two conversations have in common is what was asked."""
    turns = [{"role": "user", "content": "1+1="}]
    chosen, rejected = ([*turns, {"role": "assistant", "content": answer}] for answer in "23")
    trainer = configured([{"chosen": chosen, "rejected": rejected, "wanted": "2"}])
    assert trainer.step()["invalid"] == 0


def test_rows_without_a_prompt_are_refused(configured, tmp_path):
    """Before anything has run, with the line."""
    with pytest.raises(DataError, match="no column 'prompt'") as error:
        configured([{"prompt": "a", "wanted": "b"}, {"question": "a", "wanted": "b"}])
    assert f"{tmp_path / 'prompts.jsonl'}:2" in str(error.value)


def test_stages_are_pointed_to_their_command(tmp_path):
    """A pipeline is no single run."""
    (tmp_path / "run.json").write_text(json.dumps({"stages": {}}))
    with pytest.raises(ConfigError, match="`dovetail pipeline FILE` runs"):
        load(tmp_path / "run.json")


def test_prompts_of_a_script_are_kept_for_a_resume(tmp_path):
    """Texts, messages, answers and columns: a resumed run is what an unbroken one is."""
    called = Message("assistant", "", tool_calls=(ToolCall("1", "look", "{}"),))
    tasks = [
        "1+1=",
        dt.Task("b", [Message("user", "2+2=")], answer=4, columns={"wanted": "4"}),
        dt.Task("c", [Message("user", "look"), called, Message("tool", "3", tool_call_id="1")]),
    ]

    def trainer(name):
        return dt.Trainer(
            "grpo", policy=dt.Agent.tiny(hidden=16, layers=1, heads=2), prompts=tasks, run_dir=tmp_path / name,
            rewards=[dt.rewards.length(target=2)], batch_size=2, sampling=dt.Sampling(max_tokens=3),
        )  # fmt: skip

    whole, cut = trainer("whole"), trainer("cut")
    expected = whole.fit(4)
    cut.fit(2)
    resumed = dt.Trainer.resume(tmp_path / "cut")
    assert resumed.prompts == cut.prompts
    assert resumed.fit(4)["loss"] == expected["loss"]


def test_prompts_that_json_cannot_hold_do_not_stop_a_run(tmp_path, capsys):
    """It goes on and says that it cannot be resumed; a resume then says what is missing."""
    run = dt.Trainer(
        "grpo", policy=dt.Agent.tiny(hidden=16, layers=1, heads=2), prompts=[dt.Task("a", [Message("user", "1")], {1})],
        rewards=[dt.rewards.length(target=2)], batch_size=1, sampling=dt.Sampling(max_tokens=2), run_dir=tmp_path,
    )  # fmt: skip
    run.fit(1)
    assert "this run cannot be resumed" in "".join(capsys.readouterr())  # where logs go, another test may have said
    with pytest.raises(DataError, match="needs prompts"):
        dt.Trainer.resume(tmp_path)
