"""What the extensions promise, and the rules that they follow."""

from __future__ import annotations

import math

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dovetail import extensions
from dovetail.errors import OptionError, UserError
from dovetail.testing import part_checks
from dovetail_adaptive.controller import Adaptive, AdaptiveClip, AdaptiveKL, AdaptiveTemperature
from dovetail_adaptive.scheduled import Scheduled

GENERIC = {"node": "loss", "option": "x", "metric": "m", "target": 2.0}
CHECKS = [
    *part_checks("extensions", "adaptive", options=GENERIC),
    *part_checks("extensions", "adaptive-kl"),
    *part_checks("extensions", "adaptive-clip"),
    *part_checks("extensions", "adaptive-temperature", options={"target": 0.3}),
    *part_checks("extensions", "scheduled", options={"node": "n", "option": "o", "start": 1, "end": 0, "steps": 9}),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Each keeps what every part promises."""
    check()


class Options:
    """The part of a run that the extensions call."""

    def __init__(self, value, step=0):
        self.value, self.step = value, step

    def option(self, node, name):
        return self.value

    def adjust(self, node, **options):
        (self.value,) = options.values()


@given(st.floats(0.01, 10), st.lists(st.floats(0, 20), min_size=1, max_size=10), st.booleans())
def test_each_step_is_the_papers_rule(start, measured, rises):
    """Ziegler et al. 2019, section 2.2, step by step, with its bounds."""
    run, part = Options(start), Adaptive(**GENERIC, gain=0.3, low=0.02, high=5.0, rises=rises)
    part.on_run_start(run)
    expected = start
    for step, metric in enumerate(measured, start=1):
        part.on_step_end(run, step, {"m": metric})
        error = max(-0.2, min(0.2, (metric - 2.0) / 2.0))
        expected = max(0.02, min(5.0, expected * (1 + (-0.3 if rises else 0.3) * error)))
        assert run.value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("part", "metric", "far", "grows"),
    [
        (AdaptiveKL, "gae/kl", 100.0, True),
        (AdaptiveKL, "gae/kl", -1.0, False),
        (AdaptiveClip, "kl_to_sampler", 1.0, False),
        (AdaptiveClip, "kl_to_sampler", 0.0, True),
        (AdaptiveTemperature, "entropy", 0.01, True),
        (AdaptiveTemperature, "entropy", 20.0, False),
    ],
)
def test_each_leads_back_to_its_target(part, metric, far, grows):
    """A price rises with the KL, a clip falls with it, a temperature falls with the entropy."""
    run, chosen = Options(0.4 if part is AdaptiveClip else 0.7), part(target=0.5)
    before = run.value
    chosen.on_run_start(run)
    chosen.on_step_end(run, 1, {metric: far})
    assert run.value == pytest.approx(before * (1.02 if grows else 0.98))


def test_a_step_without_the_metric_changes_nothing():
    """An evaluation, or a batch without a single valid row."""
    run, part = Options(0.5), Adaptive(**GENERIC)
    part.on_run_start(run)
    part.on_step_end(run, 0, {"eval/reward": 1.0})
    part.on_step_end(run, 1, {"m": math.nan})
    assert run.value == 0.5


def test_its_state_survives_a_checkpoint():
    """The value goes on, whatever the recipe says."""
    run, first = Options(0.5), Adaptive(**GENERIC)
    first.on_run_start(run)
    first.on_step_end(run, 1, {"m": 100.0})
    again, second = Options(0.5), Adaptive(**GENERIC)
    second.load_state_dict(first.state_dict())
    second.on_run_start(again)
    assert again.value == run.value != 0.5


@pytest.mark.parametrize("value", [0.0, None, -1.0, "none"])
def test_what_cannot_be_moved_by_factors_is_refused(value):
    """The option is named, and where to set it."""
    with pytest.raises(UserError, match=r"loss\.x is .* only a number above 0 can be moved by factors"):
        Adaptive(**GENERIC).on_run_start(Options(value))


def test_a_metric_that_never_comes_is_told():
    """At the end of the run."""
    part = Adaptive(**GENERIC)
    part.on_run_start(Options(1.0))
    part.on_step_end(Options(1.0), 1, {"loss": 1.0})
    with structlog.testing.capture_logs() as logs:
        part.on_run_end(None, "done")
    assert logs[0]["metric"] == "m"


@pytest.mark.parametrize(
    ("shape", "values"),
    [("linear", [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]), ("cosine", [1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0])],
)
def test_a_schedule_is_its_formula(shape, values):
    """It waits, moves and stays; a resumed run begins at its step."""
    part = Scheduled(node="n", option="o", start=1.0, end=0.0, steps=4, after=1, shape=shape)
    assert [part.value(step) for step in range(7)] == pytest.approx(values, abs=1e-6)
    run = Options(9.0, step=3)
    part.on_run_start(run)
    assert run.value == pytest.approx(values[3])
    part.on_step_end(run, 4, {})
    assert run.value == pytest.approx(values[4], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("adaptive-kl", {"target": 0.0}, "'target' must be > 0"),
        ("adaptive-kl", {"gain": 2.0}, "'gain' must be <= 1"),
        ("adaptive-clip", {"low": 0.6}, "low must not be above high = 0.5, got 0.6"),
        ("adaptive-temperature", {}, "target"),
        ("scheduled", {"node": "n", "option": "o", "start": 1, "end": 0, "steps": 0}, "'steps' must be > 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, told):
    """The error names the option."""
    with pytest.raises(OptionError, match=told):
        extensions[name](**options)
