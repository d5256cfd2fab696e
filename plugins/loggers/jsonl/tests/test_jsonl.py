"""What the logger promises."""

import json

import pytest

from dovetail.errors import UserError
from dovetail.testing import part_checks
from dovetail.training.run import Run
from dovetail_jsonl import Jsonl


@pytest.mark.parametrize("check", part_checks("loggers", "jsonl"), ids=str)
def test_conformance(check):
    """It keeps what every logger promises."""
    check()


def test_a_resumed_run_leaves_no_step_twice(tmp_path):
    """Lines after the resumed step go, a line cut short too; NaN is null."""
    run, path = Run(tmp_path, "x"), tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "metrics": {}}\n{"step": 2, "metrics": {}}\n{"step": 3, "met')
    run.step = 1
    logger = Jsonl()
    logger.on_run_start(run)
    logger.log_metrics(2, {"loss": float("nan")})
    logger.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "metrics": {}},
        {"step": 2, "metrics": {"loss": None}},
    ]


def test_a_new_run_begins_a_new_file(tmp_path):
    """What another run wrote there goes."""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "metrics": {}}\n')
    Jsonl().on_run_start(Run(tmp_path, "x"))
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    """Before the first step."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Jsonl(path="file/log.jsonl").on_run_start(Run(tmp_path, "x"))
