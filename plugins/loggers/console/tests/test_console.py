"""What the logger promises."""

import io

import pytest
from rich.console import Console as RichConsole

from dovetail import loggers
from dovetail.errors import OptionError
from dovetail.testing import part_checks
from dovetail_console import Console
from dovetail_trainer.run import Run

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


def test_the_last_step_is_always_shown(tmp_path, capsys):
    """Other steps keep to ``every``; without a terminal the lines go to standard error."""
    logger, run = Console(metrics=["loss"], every=2), Run(tmp_path, "grpo")
    run.steps = 3
    logger.on_run_start(run)
    for step in (1, 2, 3):
        logger.log_metrics(step, METRICS)
    logger.close()
    assert capsys.readouterr().err.splitlines() == ["step 2/3  loss 0.25", "step 3/3  loss 0.25"]


def last_state(tmp_path, width, numbers, *, step=0, run_name="grpo", **options) -> str:
    """What the bar shows on a terminal of this width, without colours."""
    logger, screen = Console(**options), RichConsole(file=io.StringIO(), force_terminal=True, width=width)
    logger._console = screen
    run = Run(tmp_path, run_name)
    run.steps, run.step = 100, step
    logger.on_run_start(run)
    if numbers is not None:
        logger.log_metrics(50, numbers)
    paper = RichConsole(file=io.StringIO(), width=width)
    paper.print(logger._bar.get_renderable())
    logger.close()
    return paper.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_bar_and_numbers_fit_on_any_terminal(tmp_path, width):
    """Numbers wrap before they push the bar aside."""
    numbers = {**METRICS, "eval/reward": 0.75, "completion_length": 123.0, "invalid": 0.125}
    shown = last_state(tmp_path, width, numbers)
    assert all(len(line) <= width for line in shown.splitlines())
    assert "━" in shown
    assert "50/100" in shown
    words = [
        "reward",
        "0.5",
        "eval/reward",
        "0.75",
        "loss",
        "0.25",
        "length",
        "123",
        "invalid",
        "0.125",
        "tok/s",
        "12346",
    ]
    assert set(words) <= set(shown.split())


@pytest.mark.parametrize("name", ["reward[short]", "a[/b]", "{x}"])
def test_names_are_shown_as_they_are(tmp_path, name):
    """Brackets are not read as markup."""
    shown = last_state(tmp_path, 120, {name: 1.0}, metrics=(name,), run_name=name)
    assert shown.split().count(name) == 2


def test_the_bar_begins_where_a_resumed_run_begins(tmp_path):
    """Steps done before count."""
    assert "40/100" in last_state(tmp_path, 120, None, step=40)


def test_what_is_printed_beside_the_bar_stays_on_standard_output(tmp_path, capsys):
    """It may go to a file."""
    logger, stream = Console(), io.StringIO()
    logger._console = RichConsole(file=stream, force_terminal=True)
    logger.on_run_start(Run(tmp_path, "grpo"))
    print("a table")
    logger.close()
    assert capsys.readouterr().out == "a table\n"
    assert "a table" not in stream.getvalue()


def test_fewer_than_every_step_is_refused():
    """The error names the option."""
    with pytest.raises(OptionError, match="every"):
        loggers.console(every=0)
