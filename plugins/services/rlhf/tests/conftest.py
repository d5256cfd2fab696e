"""A pipeline that takes seconds: tiny models, synthetic rows, every kind of stage."""

import json

import pytest

TINY = {"hidden": 16, "layers": 1, "heads": 2, "context": 64, "characters": "abcdefxyz say:."}
FAST = {"lr": 1.0e-2}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def inputs(tmp_path):
    """Files of demonstrations, pairs whose better answer has more of the letter a, and prompts."""
    prompts = [f"say {letter}:" for letter in "xyz"]
    demonstrations = [{"prompt": p, "completion": c} for p in prompts for c in ("abca", "bcd.", "aafe", "dead")]
    pairs = [{"prompt": p, "chosen": "aa" + c, "rejected": c + "cd"} for p in prompts for c in ("b", "d", "f", "bf")]
    rows = {"demonstrations": demonstrations, "pairs": pairs, "prompts": [{"prompt": p} for p in prompts]}
    return {name: write(tmp_path / f"{name}.jsonl", each) for name, each in rows.items()}


@pytest.fixture
def stages(inputs):
    """sft, a reward model, its test, ppo and an evaluation, as a configuration says them."""
    judged = [{"use": "reward-model", "models": [{"stage": "reward-model"}]}]
    short = {"batch_size": 4, "sampling": {"max_tokens": 4}}
    after_sft = {"model": {"stage": "sft"}, "optimizer": FAST}
    return {
        "sft": {"algorithm": "sft", "policy": {"tiny": TINY, "optimizer": FAST}, "steps": 4,
                "data": {"path": inputs["demonstrations"]}, **short},
        "reward-model": {"algorithm": "reward-model", "policy": {**after_sft, "head": "value"}, "steps": 4,
                         "data": {"path": inputs["pairs"]}, **short},
        "ranking": {"make": "rank", "policy": {"model": {"stage": "sft"}}, "data": {"path": inputs["pairs"]},
                    "rewards": judged},
        "ppo": {"algorithm": "ppo", "policy": after_sft, "steps": 3, "data": {"path": inputs["prompts"]},
                "agents": {"value_model": {"model": {"stage": "reward-model"}, "head": "value", "optimizer": FAST}},
                "rewards": judged, **short},
        "evaluation": {"make": {"use": "evaluate", "samples": 2}, "data": {"path": inputs["prompts"]}, "rewards": judged,
                       "agents": {"sft": {"model": {"stage": "sft"}}, "ppo": {"model": {"stage": "ppo"}}},
                       "sampling": {"max_tokens": 4}},
    }  # fmt: skip


@pytest.fixture
def configured(tmp_path, stages):
    """configured(name, **words) writes a pipeline of the stages, words over them, and gives its file and its folder."""

    def do(name="run", chosen=None, **words):
        file, directory = tmp_path / f"{name}.json", tmp_path / name
        said = {"stages": chosen or stages, "run_dir": str(directory), "threads": 1, **words}
        file.write_text(json.dumps(said, indent=1))
        return file, directory

    return do
