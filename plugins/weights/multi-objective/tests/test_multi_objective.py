"""What the parts promise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dovetail as dt
from dovetail.errors import OptionError, UserError
from dovetail.testing import part_checks
from dovetail_multi_objective.objective import Objective
from dovetail_multi_objective.pareto import Pareto, Stretch, optimal
from dovetail_multi_objective.running import Running

CASES = {
    "constant": {"value": 0.3},
    "scheduled": {"value": 0.0, "to": 1.0, "over": 10, "schedule": "cosine"},
    "z-score": {"normalize": "z-score", "clip": [-2, 2]},
    "running": {"normalize": "running", "decay": 0.9},
}
CHECKS = [
    (name, check) for name, options in CASES.items() for check in part_checks("weights", "objective", options=options)
]
NUMBERS = st.lists(st.floats(-100, 100, width=32), max_size=12)


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=str)
def test_conformance(case, check):
    """It keeps what every weight promises, whatever its options."""
    check()


@pytest.mark.parametrize("check", part_checks("extensions", "pareto"), ids=str)
def test_conformance_of_the_extension(check):
    """It keeps what every part promises."""
    check()


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"value": 0.5}, [0.5, 0.5, 0.5, 0.5]),
        ({"value": 1.0, "to": 0.0, "over": 4}, [1.0, 0.75, 0.5, 0.0]),
        ({"value": 0.0, "to": 2.0, "over": 4, "schedule": "cosine"}, [0.0, 1 - math.sqrt(0.5), 1.0, 2.0]),
    ],
)
def test_the_weight_follows_its_schedule(options, weights):
    """Steps 0, 1 and 2 of 4, and one after the end."""
    assert [Objective(**options).weight_at(step) for step in (0, 1, 2, 9)] == pytest.approx(weights)


def test_scores_are_normalised_over_the_batch():
    """By mean and sample standard deviation; without spread they are 0."""
    counted, weight = Objective(value=0.5, normalize="z-score", eps=0.0).weigh(torch.tensor([1.0, 2.0, 3.0]), 0)
    assert counted.tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert weight == 0.5
    assert Objective(normalize="z-score").weigh(torch.full((3,), 0.1), 0)[0].tolist() == [0.0, 0.0, 0.0]


@given(st.lists(NUMBERS, min_size=1, max_size=6))
def test_running_statistics_are_those_of_all_numbers(batches):
    """However they are cut into batches."""
    running = Running()
    for batch in batches:
        running.add(torch.tensor(batch), decay=1.0)
    everything = torch.tensor([number for batch in batches for number in batch], dtype=torch.float64)
    assert running.count == len(everything)
    if len(everything):
        assert running.mean == pytest.approx(everything.mean().item(), abs=1e-9)
        assert running.std == pytest.approx(everything.std(correction=0).item(), abs=1e-6)


@given(NUMBERS.filter(bool), NUMBERS.filter(bool), st.floats(0.1, 1))
def test_what_fades_counts_by_its_weight(old, new, decay):
    """Mean and variance with weight ``decay`` for the numbers of the batch before."""
    running = Running()
    running.add(torch.tensor(old), decay)
    running.add(torch.tensor(new), decay)
    weights = torch.tensor([decay] * len(old) + [1.0] * len(new), dtype=torch.float64)
    numbers = torch.tensor(old + new, dtype=torch.float64)
    mean = (weights * numbers).sum() / weights.sum()
    variance = (weights * (numbers - mean) ** 2).sum() / weights.sum()
    assert running.mean == pytest.approx(mean.item(), abs=1e-6)
    assert running.std**2 == pytest.approx(variance.item(), abs=1e-4)


def test_clipping_comes_last():
    """It bounds what normalising has made."""
    scores = torch.tensor([0.0] * 9 + [10.0])
    assert Objective(normalize="z-score", clip=(-3, 2)).weigh(scores, 0)[0].max().item() == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": 1.0}, "to and over belong together"),
        ({"over": 5}, "to and over belong together"),
        ({"decay": 0.5}, "decay belongs to"),
        ({"clip": [1, 0]}, "low below high"),
        ({"clip": [1]}, "low below high"),
        ({"normalize": "zscore"}, "normalize"),
        ({"value": float("nan")}, "finite"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """The error names the part."""
    with pytest.raises(OptionError, match=f"weights part 'objective'.*{message}"):
        dt.weights.objective(**options)


def stretches(*points):
    return [Stretch(i, i, {"a": a, "b": b}, {}) for i, (a, b) in enumerate(points)]


def test_what_another_stretch_beats_is_left_out():
    """As good in every reward and better in one; equal ones both stay."""
    points = stretches((1, 5), (2, 4), (2, 3), (0, 5), (2, 4))
    assert [s.first for s in optimal(points, {"a": 1, "b": 1})] == [0, 1, 4]


def test_of_a_reward_with_a_negative_weight_less_is_better():
    """The sign turns it round."""
    assert [s.first for s in optimal(stretches((1, 5), (1, 4), (2, 6)), {"a": 1, "b": -1})] == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_stretch_is_optimal_or_beaten_by_an_optimal_one(points):
    """The definition of a Pareto front."""
    everything = stretches(*points)
    best = optimal(everything, {"a": 1, "b": 1})
    for stretch in everything:
        a, b = stretch.means["a"], stretch.means["b"]
        beaten = any(o.means["a"] >= a and o.means["b"] >= b and (o.means["a"], o.means["b"]) != (a, b) for o in best)
        assert beaten != (stretch in best)


class Folder:
    """The part of a run that the extension calls."""

    def write_text(self, name, text):
        self.name, self.text = name, text


def test_the_table_survives_a_checkpoint_and_shows_means_with_their_errors(capsys):
    """Two stretches of two steps, of which the second is better in both rewards."""
    first, second, run = Pareto(window=2), Pareto(window=2), Folder()
    for step, (a, b) in enumerate([(0.0, 3.0), (1.0, 3.0), (2.0, 2.0), (4.0, 2.0)], start=1):
        part = first if step < 3 else second
        part.on_step_end(run, step, {"reward/a": a, "reward/b": b, "weight/b": -0.5, "loss": 1.0})
        second.load_state_dict(first.state_dict()) if step == 2 else None
    second.on_run_end(run, "done")
    assert "| 3-4 | 3 ± 1 | 2 ± 0 |" in run.text
    assert "| steps | a ↑ | b ↓ |" in run.text
    assert "Pareto optimal: 1 of 2" in run.text
    assert run.text in capsys.readouterr().out


def test_a_reward_that_the_run_does_not_have_is_told():
    """With the names of those that it has."""
    with pytest.raises(UserError, match="'c'") as error:
        Pareto(rewards=("c",)).on_step_end(Folder(), 1, {"reward/a": 1.0})
    assert "a" in error.value.hint


def test_a_run_without_rewards_writes_nothing(capsys):
    """Imitation has none."""
    part = Pareto()
    part.on_step_end(Folder(), 1, {"loss": 1.0})
    part.on_run_end(Folder(), "done")
    assert capsys.readouterr().out == ""
