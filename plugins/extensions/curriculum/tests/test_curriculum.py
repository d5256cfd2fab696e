"""What the extensions promise, on tasks but without a run."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from dovetail import DataError, Task, extensions
from dovetail.errors import OptionError
from dovetail.rollouts import Scores
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_curriculum.competence import Curriculum
from dovetail_curriculum.learnability import Learnability
from dovetail_trainer.data import Batches

CHECKS = [*part_checks("extensions", "curriculum"), *part_checks("extensions", "learnability")]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Each keeps what every part promises."""
    check()


def tasks(difficulties):
    return [Task(str(row), (), columns={"hardness": hardness}) for row, hardness in enumerate(difficulties)]


def a_run(items, size=2, step=0):
    """The part of a run that the extensions look at, with real batches."""
    return SimpleNamespace(batches=Batches(items, size, seed=0), step=step)


def test_the_share_is_the_papers():
    """Equation 7 of Platanios et al. 2019: from the start to all, steeply first."""
    part = Curriculum(column="hardness", start=0.1, steps=100)
    assert part.share(0) == pytest.approx(0.1)
    assert part.share(25) == pytest.approx(math.sqrt(0.25 * 0.99 + 0.01))
    assert part.share(100) == part.share(500) == 1.0


def test_only_the_easiest_share_is_drawn():
    """Equal difficulties come in together; after the last step the run draws in epochs."""
    run, part = a_run(tasks([5, 1, 1, 9, 3])), Curriculum(column="hardness", start=0.2, steps=4)
    part.on_run_start(run)
    assert {task.id for step in range(30) for task in run.batches(step)} == {"1", "2"}
    part.on_step_end(run, 1, {})
    assert {task.id for step in range(30) for task in run.batches(step)} == {"1", "2", "4"}
    part.on_step_end(run, 4, {})
    assert sorted(task.id for step in range(5) for task in run.batches(step)) == sorted("0123401234")


def test_a_batch_repeats_a_task_only_if_it_must():
    """None twice while there are enough; the same step draws the same."""
    batches = Batches(tasks(range(6)), 3, seed=1)
    batches.weigh(torch.tensor([1.0, 0, 1, 1, 1, 0]))
    for step in range(20):
        ids = [task.id for task in batches(step)]
        assert len(set(ids)) == 3
        assert ids == [task.id for task in batches(step)]
    batches.weigh(torch.tensor([0.0, 1, 0, 0, 0, 0]))
    assert [task.id for task in batches(0)] == ["1"] * 3
    with pytest.raises(DataError, match="6 items of data need as many weights, got 2"):
        batches.weigh(torch.ones(2))


@pytest.mark.parametrize("hardness", [None, "hard", math.nan, True])
def test_a_difficulty_that_is_no_number_is_refused(hardness):
    """The task and the column are named."""
    with pytest.raises(DataError, match=r"the task '1' has .* in its column 'hardness', and a difficulty is a number"):
        Curriculum(column="hardness").on_run_start(a_run(tasks([1, hardness])))


def seen(rows):
    """Rollouts of two tasks, four samples each, with the given scores; None is an invalid one."""
    rollouts = tiny_rollouts()
    values = torch.tensor([math.nan if row is None else row for row in rows])
    return rollouts.with_rewards(solved=Scores(values, torch.tensor([row is None for row in rows]).to(torch.uint8)))


def test_what_is_sometimes_solved_is_drawn_most():
    """Weights p (1 - p) + floor; a task that was never drawn counts as one half, an invalid score tells nothing."""
    items = [Task(str(row), ()) for row in range(3)]
    run, part = a_run(items), Learnability(rate=0.5, floor=0.05)
    part.on_run_start(run)
    drawn = []
    run.batches.weigh = drawn.append
    part.on_rollouts(run, seen([1, 1, 1, 1, 1, 0, None, 0]))
    part.on_step_end(run, 1, {})
    assert drawn[0].tolist() == pytest.approx([0.05, 1 / 3 * 2 / 3 + 0.05, 0.3])
    part.on_rollouts(run, seen([0, 0, 0, 0, None, None, None, None]))
    part.on_step_end(run, 2, {})
    assert drawn[1].tolist() == pytest.approx([0.3, 1 / 3 * 2 / 3 + 0.05, 0.3])
    again = Learnability()
    again.load_state_dict(part.state_dict())
    assert again.state_dict() == part.state_dict() == {"solved": {"0": 0.5, "1": pytest.approx(1 / 3)}}


def test_one_reward_may_be_the_judge():
    """By its label; others are not looked at."""
    part = Learnability(reward="other")
    part.on_rollouts(None, seen([1.0] * 8))
    assert part.state_dict() == {"solved": {}}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("curriculum", {"steps": 0}, "'steps' must be > 0"),
        ("curriculum", {"start": 1.5}, "'start' must be <= 1"),
        ("learnability", {"floor": 0.0}, "'floor' must be >= 0.001"),
        ("learnability", {"rate": 0.0}, "'rate' must be > 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, told):
    """The error names the option."""
    with pytest.raises(OptionError, match=told):
        extensions[name](**options)
