"""Whole runs on preferences: from files, resumed, on real pairs, and a reward model that then scores."""

import gzip
import json
from pathlib import Path

import pytest

import dovetail as dt
from dovetail.errors import DataError
from dovetail_trainer.config.build import build
from dovetail_trainer.config.load import load

HH = Path(__file__).parents[2] / "../shared/data/hh-rlhf/test.jsonl.gz"
PAIRS = [
    {"prompt": f"{n}?", "chosen": "a" * (n % 3 + 1), "rejected": "b" * (n % 2 + 1), "margin": n % 2} for n in range(12)
]
TINY = {"hidden": 16, "layers": 1, "heads": 2}


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


def configured(folder, name, data, **options):
    """A run as a configuration file describes it."""
    algorithm, policy = {"use": name, **options}, {"tiny": TINY, "head": "value", "optimizer": {"lr": 1e-2}}
    words = {"algorithm": algorithm, "policy": policy, "data": {"path": str(data)}, "steps": 4, "batch_size": 4}
    (folder / f"{name}.json").write_text(json.dumps({**words, "checkpoint_every": 2}))
    return build(load(folder / f"{name}.json"), run_dir=folder / name)


@pytest.mark.parametrize("name", ["dpo", "cpo", "simpo", "orpo", "reward-model"])
def test_it_trains_from_a_file_and_goes_on_after_a_stop(name, pairs, tmp_path):
    """The last steps are the same, bit by bit, whether or not the run was interrupted."""
    whole = configured(tmp_path, name, pairs)
    expected = whole.fit(4)
    (tmp_path / "again").mkdir()
    configured(tmp_path / "again", name, pairs).fit(2)
    resumed = dt.Trainer.resume(tmp_path / "again" / name).fit(4)
    assert resumed["loss"] == expected["loss"]
    assert resumed["grad_norm"] == expected["grad_norm"]


def test_kto_trains_from_a_file(tmp_path):
    """On labelled answers."""
    path = tmp_path / "labelled.jsonl"
    rows = [{"prompt": f"{n}?", "completion": "ab"[n % 2], "label": n % 2 == 0} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = configured(tmp_path, "kto", path, ref_cache=str(tmp_path / "cache.sqlite")).fit(4)
    assert metrics["kto/signed_reward"] > 0
    assert (tmp_path / "cache.sqlite").exists()


def test_a_reward_model_scores_in_the_run_that_follows(pairs, tmp_path):
    """Its final folder is what the reward reads."""
    configured(tmp_path, "reward-model", pairs, margin=True, center=0.01).fit(4)
    reward = dt.rewards["reward-model"](models=[str(tmp_path / "reward-model" / "final")])
    policy = dt.Agent.tiny(**TINY)
    trainer = dt.Trainer(
        "online-dpo", policy=policy, prompts=["1?", "2?"], rewards=[reward], batch_size=2,
        sampling=dt.Sampling(max_tokens=4), run_dir=tmp_path / "online",
    )  # fmt: skip
    assert trainer.fit(2)["invalid"] == 0


def test_a_recipe_for_pairs_refuses_demonstrations(tmp_path):
    """Before anything has run, with the line."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError, match="no column 'chosen'") as error:
        configured(tmp_path, "dpo", path)
    assert f"{path}:1" in str(error.value)


def test_dpo_learns_real_pairs(tmp_path):
    """Short dialogues of hh-rlhf, a few of them broken; the margin on the pairs that it sees rises."""
    if not HH.exists():
        pytest.skip(f"needs hh-rlhf's test.jsonl.gz at {HH}")
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        rows = [row for line in file if max(map(len, (row := json.loads(line)).values())) < 250][:64]
    path = tmp_path / "hh.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    characters = "".join(sorted({character for row in rows for text in row.values() for character in text}))
    policy = dt.Agent.tiny(hidden=32, layers=1, characters=characters, optimizer=dt.OptimizerSettings(lr=3e-3))
    data = dt.DataSettings(str(path), on_broken="skip")
    trainer = dt.Trainer("dpo", policy=policy, data=data, batch_size=16, run_dir=tmp_path / "run", checkpoint_every=0)
    first, *_, last = [trainer.step() for _ in range(30)]
    assert first["dpo/margin"] == pytest.approx(0, abs=1e-5)
    assert last["dpo/margin"] > 1
    assert last["dpo/accuracy"] > 0.8
