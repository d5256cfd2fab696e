"""What the extension promises."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dovetail import extensions
from dovetail.errors import OptionError
from dovetail.testing import part_checks
from dovetail_early_stopping import EarlyStopping
from dovetail_trainer.run import Run


@pytest.mark.parametrize(
    "check", part_checks("extensions", "early-stopping", options={"metric": "loss", "at_most": 0.1}), ids=str
)
def test_conformance(check):
    """It keeps what every part promises."""
    check()


def steps_until_stop(tmp_path, values, **options):
    run, watcher = Run(tmp_path, "x"), EarlyStopping(metric="m", **options)
    for step, value in enumerate(values, start=1):
        watcher.on_step_end(run, step, {} if value is None else {"m": value})
        if run.stop_reason:
            return step, run.stop_reason
    return None


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([0.1, None, 0.5], {"at_least": 0.5}, (3, "m is 0.5, at least 0.5")),
        ([0.9, 0.2], {"at_most": 0.3}, (2, "m is 0.2, at most 0.3")),
        ([1, 2, 2, None, 1], {"patience": 2}, (5, "m has not improved for 2 reports")),
        ([3, 2, 2, 3], {"patience": 2, "mode": "min"}, (4, "m has not improved for 2 reports")),
        ([1, float("nan"), 2], {"patience": 1}, None),
    ],
)
def test_it_stops_at_the_right_report(tmp_path, values, options, expected):
    """Steps without the metric do not count."""
    assert steps_until_stop(tmp_path, values, **options) == expected


def test_its_state_survives_a_checkpoint(tmp_path):
    """Waiting goes on where it was."""
    first = EarlyStopping(metric="m", patience=2)
    run = Run(tmp_path, "x")
    first.on_step_end(run, 1, {"m": 3.0})
    first.on_step_end(run, 2, {"m": 2.0})
    second = EarlyStopping(metric="m", patience=2)
    second.load_state_dict(first.state_dict())
    second.on_step_end(run, 3, {"m": 2.5})
    assert run.stop_reason


def test_a_metric_that_never_comes_is_told(tmp_path):
    """With near misses, at the end of the run."""
    watcher, run = EarlyStopping(metric="eval/rewrd", at_least=1), Run(tmp_path, "x")
    watcher.on_step_end(run, 1, {"eval/reward": 0.1, "loss": 1.0})
    with structlog.testing.capture_logs() as logs:
        watcher.on_run_end(run, "done")
    assert logs[0]["near"] == ["eval/reward"]


def test_a_metric_that_came_before_a_resume_is_not_missed(tmp_path):
    """Evaluations are rare: the rest of a run may end without one."""
    first, second = (EarlyStopping(metric="eval/reward", at_least=1) for _ in range(2))
    run = Run(tmp_path, "x")
    first.on_step_end(run, 1, {"eval/reward": 0.1})
    second.load_state_dict(first.state_dict())
    second.on_step_end(run, 2, {"loss": 1.0})
    with structlog.testing.capture_logs() as logs:
        second.on_run_end(run, "done")
    assert logs == []


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(1, 5))
def test_less_is_better_is_the_mirror_of_more_is_better(values, patience):
    """Patience ends at the same report, and only if the last ones did not beat the best before them."""
    stops = [first_stop(numbers, patience, mode) for numbers, mode in ((values, "max"), ([-v for v in values], "min"))]
    assert stops[0] == stops[1]
    for report in range(patience, len(values)):
        if max(values[report - patience + 1 : report + 1]) <= max(values[: report - patience + 1]):
            assert stops[0] == report
            break
    else:
        assert stops[0] is None


class Stops:
    """The part of a run that the extension calls, without a folder."""

    reason = None

    def stop(self, reason):
        self.reason = reason


def first_stop(values, patience, mode):
    run, watcher = Stops(), EarlyStopping(metric="m", patience=patience, mode=mode)
    for report, value in enumerate(values):
        watcher.on_step_end(run, report, {"m": value})
        if run.reason:
            return report
    return None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give at_least, at_most or patience"),
        ({"patience": -1}, "patience"),
        ({"patience": 1, "mode": "best"}, "mode"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """It needs a bound or patience to wait for."""
    with pytest.raises(OptionError, match=message):
        extensions["early-stopping"](metric="m", **options)
