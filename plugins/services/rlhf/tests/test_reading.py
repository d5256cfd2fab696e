"""A pipeline is checked as a whole before anything runs."""

import json

import pytest

from dovetail.errors import CheckpointError, ConfigError
from dovetail_rlhf.preset import merged, presets
from dovetail_rlhf.reading import read, read_again
from dovetail_trainer.cli.main import main


def refused(file, *overrides):
    with pytest.raises(ConfigError) as error:
        read(file, overrides)
    return error.value.mistakes


def test_a_reference_is_the_path_of_what_an_earlier_stage_gives(configured):
    """Models are the folder `final` of their run, rows a file."""
    file, directory = configured()
    plan = {stage.name: stage for stage in read(file).stages}
    assert plan["ppo"].config.policy.model == str(directory / "sft" / "final")
    assert plan["ppo"].config.rewards[0].options["models"] == [str(directory / "reward-model" / "final")]
    assert plan["reward-model"].output == "reward model"
    assert [stage.config.settings.threads for stage in plan.values()] == [1] * 5


def test_all_mistakes_are_told_at_once_with_their_lines(configured, stages):
    """Of every stage, each with its path in the file."""
    stages["sft"]["step"] = 4
    stages["reward-model"]["policy"]["optimizer"] = {"lr": "fast"}
    stages["ppo"]["rewards"] = ["reward-modle"]
    stages["ranking"]["make"] = "rnak"
    file, _ = configured()
    mistakes = refused(file)
    assert len(mistakes) == 4
    assert "unknown option 'step', did you mean 'steps'?  at stages.sft (run.json:" in mistakes[0]
    assert "stages.reward-model.policy.optimizer.lr (run.json:" in mistakes[1]
    assert "nothing is made by 'rnak', did you mean 'rank'?" in mistakes[2]
    assert "stages.ppo.rewards[0]" in mistakes[3]
    assert not (file.parent / "run").exists()


@pytest.mark.parametrize(
    ("stage", "at", "value", "told"),
    [
        ("ppo", ("policy", "model"), {"stage": "sfft"}, "there is no stage 'sfft', did you mean 'sft'?"),
        ("ppo", ("policy", "model"), {"stage": "evaluation"}, "the stage 'evaluation' does not come before this one"),
        ("ppo", ("data", "path"), {"stage": "sft"}, "the stage 'sft' gives a model, and a file of rows is needed here"),
        ("ppo", ("policy", "model"), {"stage": "ranking"}, "gives figures alone, and a model is needed here"),
        (
            "ppo",
            ("rewards", 0, "models", 0),
            {"stage": "sft"},
            "a reward model (`policy: {head: value}`) is needed here",
        ),
        ("ppo", ("data", "path"), "nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("ppo", ("agents",), {}, "has no value head"),
        ("sft", ("data", "path"), {"input": "mine"}, "`inputs` does not give 'mine'"),
        ("sft", ("run_dir",), "elsewhere", "so no `run_dir`"),
        ("sft", ("make",), "sample", "give either `algorithm"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(configured, stages, stage, at, value, told):
    """A missing input, the wrong kind of output, a stage that comes later."""
    here = stages[stage]
    for step in at[:-1]:
        here = here[step]
    here[at[-1]] = value
    mistakes = refused(configured()[0])
    assert any(told in mistake for mistake in mistakes), mistakes
    assert all("(run.json:" in mistake for mistake in mistakes)


def test_answers_are_no_pairs(configured, stages):
    """A stage that learns from pairs cannot read what was only sampled."""
    policy = {"model": {"stage": "sft"}}
    drafts = {"make": "sample", "policy": policy, "data": stages["ppo"]["data"]}
    dpo = {"algorithm": "dpo", "policy": policy, "data": {"path": {"stage": "drafts"}}}
    (mistake,) = refused(configured(chosen={"sft": stages["sft"], "drafts": drafts, "dpo": dpo})[0])
    assert "the stage 'drafts' gives answers, and pairs are needed here" in mistake


def test_a_skipped_stage_lets_the_model_through_that_it_would_have_begun_with(configured, stages):
    """What needs more than that is told."""
    stages["sft"]["policy"] = {"model": "some/model"}
    file, _ = configured()
    plan = {stage.name: stage for stage in read(file, ["stages.sft.skip=true"]).stages}
    assert plan["sft"].fate == "skipped"
    assert plan["ppo"].config.policy.model == "some/model"
    mistakes = refused(file, "stages.reward-model.skip=true")
    assert any("is needed here  at stages.ppo.rewards[0].models[0]" in mistake for mistake in mistakes)
    stages["sft"]["policy"] = {"tiny": True}
    assert any("leaves nothing here" in mistake for mistake in refused(configured()[0], "stages.sft.skip=true"))


def test_a_replaced_stage_gives_what_lies_at_the_path(configured, tmp_path):
    """Which must be there, and of the right kind."""
    file, _ = configured()
    (tmp_path / "mine").mkdir()
    plan = {stage.name: stage for stage in read(file, [f"stages.sft.replace={tmp_path / 'mine'}"]).stages}
    assert plan["ppo"].config.policy.model == str(tmp_path / "mine")
    assert any(
        "there is no nowhere  at stages.sft.replace (--set" in m for m in refused(file, "stages.sft.replace=nowhere")
    )
    mistakes = refused(file, f"stages.reward-model.replace={tmp_path / 'mine'}")
    assert any("gives a model, and a reward model" in mistake for mistake in mistakes)
    (tmp_path / "mine" / "value_head.safetensors").touch()
    assert read(file, [f"stages.reward-model.replace={tmp_path / 'mine'}"]).stages[1].output == "reward model"


def test_a_preset_is_changed_word_by_word():
    """A reference is one word, null takes a word out, and new stages come behind."""
    below = {"a": {"policy": {"model": {"input": "m"}, "lora": {"rank": 4}}, "steps": 3}, "b": {"steps": 1}}
    above = {"a": {"policy": {"model": {"stage": "x"}, "lora": None}}, "b": None, "c": {"steps": 2}}
    assert merged(below, above) == {"a": {"policy": {"model": {"stage": "x"}}, "steps": 3}, "c": {"steps": 2}}


def test_presets_need_their_inputs_and_no_more(tmp_path, inputs):
    """Each loads with what its head lists, and names what is missing."""
    given = {"model": "some/model", "demonstrations": inputs["demonstrations"], "pairs": inputs["pairs"],
             "held_out_pairs": inputs["pairs"], "prompts": inputs["prompts"], "held_out_prompts": inputs["prompts"],
             **{key: {"use": "reward-model", "models": ["some/reward-model"]} for key in ("judge", "examiner")},
             "voice": {"agent": {"model": "some/model"}}}  # fmt: skip
    assert presets() == ["constitutional", "rlaif", "rlhf"]
    for name in presets():
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"use": name, "inputs": given}))
        assert len(read(file).stages) >= 4
        file.write_text(
            json.dumps({"use": name, "inputs": {key: value for key, value in given.items() if key != "model"}})
        )
        assert any("`inputs` does not give 'model'" in mistake for mistake in refused(file))
    file.write_text(json.dumps({"use": "rlfh"}))
    assert "no pipeline is called 'rlfh', did you mean 'rlhf'?" in refused(file)[0]


def test_an_input_that_holds_itself_is_refused(configured):
    """Instead of running in a circle."""
    file, _ = configured(inputs={"mine": {"path": {"input": "mine"}}})
    assert any("holds itself" in mistake for mistake in refused(file, "stages.sft.data={input: mine}"))


def test_a_folder_without_a_pipeline_cannot_be_resumed(tmp_path, capsys):
    """The error says what was looked for."""
    with pytest.raises(CheckpointError, match=r"no pipeline: it has no pipeline\.json"):
        read_again(tmp_path)
    assert main(["pipeline", "--resume", str(tmp_path)]) == 2


def test_the_command_checks_and_shows(configured, capsys):
    """Without running anything."""
    file, directory = configured()
    assert main(["pipeline", str(file), "--check"]) == 0
    assert "ppo: ppo, 3 steps" in capsys.readouterr().out
    assert not directory.exists()
    assert main(["pipeline", "--show", "rlhf"]) == 0
    assert "reward-model:" in capsys.readouterr().out
    assert main(["pipeline"]) == 2
