"""A run of an offline recipe with nothing but the core: from a file, killed by its own callback, resumed."""

import json

import pytest
import torch

import dovetail as dt
from dovetail_trainer.cli.main import main


@dt.losses.register("likelihood")
class Likelihood:
    """Minus the log-prob of each demonstrated token."""

    @dt.hookimpl
    def loss_terms(self, logprobs):
        return dt.LossTerms(-logprobs)


@dt.recipes.register("copying")
@dt.recipe
def copying(policy, demonstrations):
    dt.set_loss(dt.loss("likelihood", dt.logprobs(policy, demonstrations, name="policy_logprobs")))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A YAML file beside its data."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "run.yaml"
    file.write_text(
        "algorithm: copying\npolicy: {tiny: {hidden: 16, layers: 1, heads: 2}, optimizer: {lr: 0.01}}\n"
        "data: rows.jsonl\nbatch_size: 4\nsteps: 4\ncheckpoint_every: 1\nrun_dir: run\n"
    )
    return file


def test_a_run_from_a_file_is_cut_off_and_goes_on(config, tmp_path, capsys):
    """Two steps and a resume give the metrics and the weights of four steps in one go."""
    assert main(["train", str(config), "--set", "run_dir=whole"]) == 0
    assert main(["train", str(config), "--steps", "2"]) == 0
    assert main(["train", "--resume", "run", "--steps", "4"]) == 0
    assert "4 steps done" in capsys.readouterr().out

    def losses(run):
        return [
            json.loads(line)["metrics"]["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]

    assert losses("run") == losses("whole")
    whole, resumed = (dt.Agent(tmp_path / run / "final").model.state_dict() for run in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_broken_row_stops_before_anything_has_run(config, capsys):
    """The line is named, and what to do; there is no run folder."""
    with open("rows.jsonl", "a") as file:
        file.write('{"prompt": "1+1="}\n')
    assert main(["train", str(config)]) != 0
    message = capsys.readouterr().err
    assert "rows.jsonl:9" in message
    assert not (config.parent / "run").exists()
