"""What the logger promises."""

import io

import pytest
from rich.console import Console as RichConsole

from dovetail.testing import part_checks
from dovetail.training.run import Run
from dovetail_console import Console

METRICS = {"reward": 0.5, "loss": 0.25, "tokens_per_second": 12345.6}


@pytest.mark.parametrize("check", part_checks("loggers", "console"), ids=str)
def test_conformance(check):
    """It keeps what every logger promises."""
    check()


def logged(tmp_path, terminal, **options) -> str:
    logger, stream = Console(**options), io.StringIO()
    logger._console = RichConsole(file=stream, force_terminal=terminal, width=140)
    run = Run(tmp_path, "grpo")
    run.steps = 3
    logger.on_run_start(run)
    logger.log_metrics(1, {**METRICS, "eval/reward": 0.75})
    logger.log_metrics(2, METRICS)
    logger.close()
    return stream.getvalue()


def test_plain_lines_without_a_terminal(tmp_path):
    """One for each step, the last evaluation kept in sight."""
    assert logged(tmp_path, False).splitlines() == [
        "step 1/3  reward 0.5  eval/reward 0.75  loss 0.25  tok/s 12346",
        "step 2/3  reward 0.5  eval/reward 0.75  loss 0.25  tok/s 12346",
    ]


def test_chosen_metrics_and_fewer_lines(tmp_path):
    """Metrics that are not there are left out; evaluations are always shown."""
    text = logged(tmp_path, False, metrics=("loss", "nothing"), every=3)
    assert text.splitlines() == ["step 1/3  loss 0.25"]


def test_a_bar_on_a_terminal(tmp_path):
    """It names the run and counts."""
    text = logged(tmp_path, True)
    assert "grpo" in text
    assert "2/3" in text
