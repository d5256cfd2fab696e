"""What the logger promises."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import UserError
from dovetail.testing import part_checks
from dovetail_jsonl import Jsonl
from dovetail_trainer.run import Run


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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b'{"steps": 3}\n'),
        ("metrics.jsonl", b'{"step": 1, "metrics": {}, "timing": {}}\n'),
        ("notes.txt", b"hello"),
        ("picture.png", b"\x89PNG\r\n"),
    ],
    ids=["config", "metrics", "text", "picture"],
)
@pytest.mark.parametrize("step", [0, 2])
def test_a_file_of_something_else_is_refused(tmp_path, name, content, step):
    """It is left as it is, by a new run and by a resumed one."""
    run, path = Run(tmp_path, "x"), tmp_path / name
    path.write_bytes(content)
    run.step = step
    with pytest.raises(UserError, match="is not a file of this logger"):
        Jsonl(path=name).on_run_start(run)
    assert path.read_bytes() == content


def test_each_line_is_written_at_once(tmp_path):
    """Whoever follows the file sees the step before the next one; folders on the way are made."""
    logger = Jsonl(path="curves/log.jsonl")
    logger.on_run_start(Run(tmp_path, "x"))
    logger.log_metrics(1, {"loss": 0.5})
    assert (tmp_path / "curves/log.jsonl").read_text() == '{"step": 1, "metrics": {"loss": 0.5}}\n'
    logger.close()


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 12)), max_size=4))
def test_however_often_a_run_is_killed_each_step_is_there_once(kills):
    """Each kill comes some steps after a checkpoint and may cut the last line short."""
    with tempfile.TemporaryDirectory() as folder:
        run, path = Run(Path(folder), "x"), Path(folder) / "log.jsonl"
        for steps, kept, cut in [*kills, (3, 3, 0)]:
            logger, started = Jsonl(), run.step
            logger.on_run_start(run)
            for step in range(started + 1, started + steps + 1):
                logger.log_metrics(step, {"loss": 1.0})
            logger.close()
            path.write_bytes(path.read_bytes()[: path.stat().st_size - (cut if kept < steps else 0)])
            run.step = started + min(kept, steps)
        written = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert written == list(range(1, run.step + 1))


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    """Before the first step."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Jsonl(path="file/log.jsonl").on_run_start(Run(tmp_path, "x"))
