"""Several processes train as one: the same numbers, one folder, and nobody waits for the dead."""

from __future__ import annotations

import json
import statistics

import pytest
import ranked_runs
from ranked import Killed, in_processes
from ranked_runs import fit, fit_with
from trajectories import shared_trajectory, trajectory

import dovetail as dt
from dovetail.errors import UserError
from dovetail_trainer.ranks import LostContact

MAY_DIFFER = ("time/", "tokens_per_second", "rss_mb")


def numbers(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith(MAY_DIFFER)}


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_are_one_run(tmp_path):
    """Metrics as of one process, equal in both; one writes, and each line once."""
    alone = fit(tmp_path / "alone", 3)
    first, second = in_processes(2, fit, tmp_path / "both", 3)
    assert first == second
    assert numbers(first) == pytest.approx(numbers(alone), rel=1e-6)
    assert [line["step"] for line in lines(tmp_path / "both")] == [1, 2, 3]
    assert len((tmp_path / "both" / "log.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "both" / "final" / "model.safetensors").exists()
    files = [sorted(path.name for path in (tmp_path / run).rglob("*")) for run in ("alone", "both")]
    assert files[0] == files[1]


def test_a_killed_process_ends_the_run_which_goes_on_as_if_nothing_had_been(tmp_path):
    """The other says what happened; resumed by two, the numbers are the same to the bit, and by one they are close."""
    in_processes(2, fit, tmp_path / "whole", 6)
    for name, count in (("cut", 2), ("cut-then-one", 1)):
        survivor, dead = in_processes(2, fit_with, tmp_path / name, 6, {"trouble": (3, "killed")})
        assert isinstance(dead, Killed)
        assert isinstance(survivor, LostContact)
        assert "process 0 of 2 has lost the others" in str(survivor)
        resumed = {"resume": True}
        results = in_processes(count, fit_with, tmp_path / name, 6, resumed) if count > 1 else []
        assert not any(isinstance(result, Exception) for result in results), results
        if count == 1:
            fit(tmp_path / name, 6, **resumed)
        found, expected = ([line["metrics"] for line in lines(tmp_path / run)] for run in (name, "whole"))
        assert [line["step"] for line in lines(tmp_path / name)] == [1, 2, 3, 4, 5, 6]
        if count == 2:
            assert found == expected
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


def test_an_error_in_one_process_is_told_by_all(tmp_path):
    """The others name the process and its error, and do not wait for it."""
    first, second = in_processes(2, fit_with, tmp_path / "run", 4, {"trouble": (1, "stumbles")})
    assert "a disk is full" in str(second)
    assert isinstance(first, LostContact)
    assert "process 1: a disk is full" in str(first)


def test_weights_that_drift_apart_are_noticed(tmp_path):
    """At the next checkpoint, which is not written."""
    for found in in_processes(2, fit_with, tmp_path / "run", 4, {"trouble": (1, "drifts")}):
        assert "the weights of process 1 differ from those of process 0" in str(found)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_more_processes_than_prompts_are_refused(tmp_path):
    """Before anything has run, with the way out."""
    for found in in_processes(2, fit_with, tmp_path / "run", 1, {"batch_size": 1}):
        assert isinstance(found, UserError)
        assert "2 processes cannot share a batch of 1" in str(found)


def test_rewards_by_row_are_shared_and_others_asked_once(tmp_path):
    """One that looks at rows together sees all of them, in one process; no row is scored twice."""
    *_, alone = ranked_runs.asked(tmp_path / "alone")
    (apart, together, metrics), (apart_too, nothing, _) = in_processes(2, ranked_runs.asked, tmp_path / "both")
    rows = 4 * 8
    assert (apart, apart_too) == ([rows // 2], [rows // 2])
    assert (together, nothing) == ([rows], [])
    assert numbers(metrics) == pytest.approx(numbers(alone), rel=1e-6)


def test_episodes_are_shared(tmp_path):
    """Of several turns, in a step and in an evaluation, with the seeds that one process uses."""
    alone = ranked_runs.played(tmp_path / "alone")
    both = in_processes(2, ranked_runs.played, tmp_path / "both")
    for ours, theirs in zip(both[0], alone, strict=True):
        # How many episodes ask at a time differs, and is no number of the model.
        ours, theirs = ({key: value for key, value in numbers(m).items() if "batch" not in key} for m in (ours, theirs))
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_process_without_work_takes_part():
    """Four processes for three prompts, whose rows are bundled: one has nothing to answer and nothing to learn."""
    expected, found = trajectory("grpo", steps=5), shared_trajectory("grpo", processes=4, steps=5)
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("shape", [{"lora": dt.LoraSettings(rank=2)}, {"gradient_checkpointing": True}], ids=str)
def test_nothing_special_is_needed(shape):
    """Adapters and recomputed activations, with prompts that are read once for their rows."""
    expected, found = trajectory("grpo", steps=5, **shape), shared_trajectory("grpo", steps=5, **shape)
    for key, values in expected.items():
        size = statistics.fmean(map(abs, values))
        assert found[key] == pytest.approx(values, abs=1e-6 * size)
