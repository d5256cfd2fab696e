"""``dt.train_rlhf``: one call from a model and data to a trained agent."""

import json

import pytest
import torch

import dovetail as dt
from dovetail.errors import DataError, UserError

PAIRS = [{"prompt": f"{n}?", "chosen": "a" * (n % 3 + 1), "rejected": "b" * (n % 2 + 1)} for n in range(8)]


def tiny(**options):
    return dt.Agent.tiny(hidden=16, layers=1, heads=2, optimizer=dt.OptimizerSettings(lr=1e-2), **options)


def letters(texts):
    """Share of the letter a."""
    return [text.count("a") / max(len(text), 1) for text in texts]


def test_dpo_learns_from_rows(tmp_path):
    """One pass by default; the trained agent comes back, its model and its data are in the folder, to resume."""
    before = {name: value.clone() for name, value in tiny(trainable=True).named_parameters().items()}
    agent = dt.train_rlhf(tiny(), PAIRS, algorithm="dpo", run_dir=tmp_path / "run", batch_size=4)
    assert agent.version == 2
    assert any(not torch.equal(before[name], value) for name, value in agent.named_parameters().items())
    assert (tmp_path / "run" / "final" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["path"] == str(
        tmp_path / "run" / "dataset.jsonl"
    )
    assert dt.Trainer.resume(tmp_path / "run").fit(3)["loss"] > 0


def test_ppo_is_given_a_value_model_of_its_own(tmp_path):
    """A copy of the model with a head, which learns five times as fast; prompts may be texts."""
    dt.train_rlhf(
        tiny(), ["1?", "2?", "3?"], [letters], dt.recipes.ppo(epochs=1), steps=2, batch_size=2, run_dir=tmp_path,
        sampling=dt.Sampling(max_tokens=4),
    )  # fmt: skip
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["agents"]["value_model"]["head"] == "value"
    assert config["agents"]["value_model"]["optimizer"]["lr"] == pytest.approx(5e-2)
    assert config["algorithm"]["epochs"] == 1


def test_a_file_is_read_where_it_lies(tmp_path):
    """And a name of a model gets the default learning rate of its kind of data."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    model = tiny().save(tmp_path / "model")
    agent = dt.train_rlhf(model, path, algorithm="dpo", steps=1, run_dir=tmp_path / "run")
    assert agent.optimizer.lr == 1e-6
    assert not (tmp_path / "run" / "dataset.jsonl").exists()


@pytest.mark.parametrize(
    ("algorithm", "dataset", "rewards", "told"),
    [
        ("dpo", [{"prompt": "a", "completion": "b"}], [], "dpo learns from pairs.*no column 'chosen'"),
        ("ppo", [{"question": "a"}], [letters], "ppo learns from prompts.*no column 'prompt'"),
        ("sft", ["text"], [], "sft learns from rows with `prompt` and `completion`.*must be an object"),
        ("kto", PAIRS, [], "kto learns from labelled answers.*no column 'completion'"),
        ("dpo", [], [], "dpo learns from pairs.*no rows"),
    ],
)
def test_what_the_data_lacks_is_named(algorithm, dataset, rewards, told, tmp_path):
    """With what the algorithm needs, and the line."""
    with pytest.raises(DataError, match=told):
        dt.train_rlhf(tiny(), dataset, rewards, algorithm, run_dir=tmp_path)


def test_rewards_are_for_algorithms_that_sample(tmp_path):
    """Missing ones and ones that nobody would read are both told."""
    with pytest.raises(UserError, match="ppo samples and needs rewards"):
        dt.train_rlhf(tiny(), ["a"], algorithm="ppo", run_dir=tmp_path)
    with pytest.raises(UserError, match="dpo learns from its rows and asks no reward"):
        dt.train_rlhf(tiny(), PAIRS, [letters], "dpo", run_dir=tmp_path)
    with pytest.raises(UserError, match="an agent has its own lora"):
        dt.train_rlhf(tiny(), PAIRS, algorithm="dpo", lora=dt.LoraSettings(), run_dir=tmp_path)
