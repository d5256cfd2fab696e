"""What the environment promises: right answers score 1, hostile ones cost little, failures are no zeros."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path

import pytest

from dovetail import environments
from dovetail.errors import DataError, OptionError
from dovetail.testing import part_checks
from dovetail_math import LEVELS, Math
from dovetail_math.answers import Ambiguous, exact_number, final_answer, normalised
from dovetail_math.pool import Pool, Worker
from dovetail_math.verification import is_correct, is_hazardous

GSM8K = Path(__file__).parents[4] / "../shared/data/gsm8k/train.jsonl"
CASES = [
    ({"levels": list(LEVELS), "size": 500}, lambda task: f"The answer is \\boxed{{{task.answer}}}"),
    ({"notation": "reversed", "final_answer": "whole"}, lambda task: task.answer),
    ({"final_answer": "last_number", "levels": ["word"]}, lambda task: f"First 3, then {task.answer}."),
]
CHECKS = [c for options, gold in CASES for c in part_checks("environments", "math", options=options, gold=gold)]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """It keeps what every environment promises."""
    check()


def correct(answer, gold, timeout=10.0):
    return asyncio.run(is_correct(answer, gold, symbolic=True, timeout=timeout, workers=1))


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("72", "72", True), ("1,000", "1000", True), ("$18.50", "18.5", True), ("0.5", "1/2", True),
        ("\\frac{1}{2}", "0.5", True), ("-\\frac{3}{4}", "-0.75", True), ("x = 3", "3", True), ("5\\text{ cm}", "5", True),
        ("50\\%", "50", True), ("3.", "3", True), ("1/0", "3", False), ("71", "72", False), ("0.3333", "1/3", False),
        ("\\sqrt{8}", "2\\sqrt{2}", True), ("(1,2)", "(1, 2)", True), ("\\sqrt{8}", "2", False), ("x+1", "1+x", True),
    ],
)  # fmt: skip
def test_equal_answers_are_equal(answer, gold, expected):
    """As text, as exact numbers, as expressions."""
    assert correct(answer, gold) is expected


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^9}", "9^9^9", "10000000!", "__import__('os').system('true')", "(" * 60 + "1" + ")" * 60, "1" * 600,
        "2^{123456789}", "eval(1)", "\\frac{" * 20 + "1", "1e999999999", "7" * 40,
    ],
)  # fmt: skip
def test_hostile_answers_are_wrong_and_cheap(answer):
    """No computer algebra before the filters, and nothing of Python at all."""
    started = time.monotonic()
    assert correct(answer, "\\sqrt{2}") is False
    assert time.monotonic() - started < 10


def test_a_worker_past_its_deadline_is_killed_and_replaced():
    """The answer is wrong, the next one is graded."""
    pool = Pool(1)
    assert pool.equal("\\sqrt{8}", "2\\sqrt{2}", 10.0) is True
    assert pool.equal("\\sqrt{2}", "\\sqrt{3}", 0.0) is False
    assert pool.equal("\\sqrt{18}", "3\\sqrt{2}", 10.0) is True
    pool.close()


def test_a_worker_that_dies_is_replaced():
    """kill -9 on a worker costs one answer at most."""
    worker = Worker()
    worker._process.kill()
    worker._process.wait()
    assert worker.ask("1", "2", 1.0) is None
    worker.kill()


def test_final_answers_are_found():
    """Boxes before hashes; the last number by rule; two different boxes are none."""
    assert final_answer("so \\boxed{\\frac{1}{2}}", "marked") == "\\frac{1}{2}"
    assert final_answer("\\boxed{3} and again \\boxed{ 3 }", "marked") == "3"
    assert final_answer("a\n#### 1,234", "marked") == "1,234"
    assert final_answer("it is 7", "marked") is None
    assert final_answer("3 then $1,200.50 done", "last_number") == "$1,200.50"
    assert final_answer(" 42 ", "whole") == "42"
    assert final_answer("\\boxed{never closed", "marked") is None
    with pytest.raises(Ambiguous):
        final_answer("\\boxed{3} \\boxed{4}", "marked")
    assert exact_number(normalised("no number")) is None
    assert is_hazardous("5!")


def test_real_solutions_score_one():
    """Every solution of GSM8K's training file is right by its own rule, and a neighbour's is wrong."""
    if not GSM8K.exists():
        pytest.skip(f"needs GSM8K's train.jsonl at {GSM8K}")
    tasks = environments.math(path=str(GSM8K)).call("tasks", {"split": "train"})
    assert len(tasks) > 6000

    async def grade(task, answer):
        episode = await Math().make()
        await episode.reset(seed=0, task=task)
        from dovetail import Message

        return (await episode.step(Message("assistant", answer))).reward

    for task, other in itertools.pairwise(tasks[:300]):
        assert asyncio.run(grade(task, task.columns["solution"])) == 1.0
        if task.answer != other.answer:
            assert asyncio.run(grade(task, other.columns["solution"])) == 0.0


def test_a_verifier_that_cannot_start_is_an_error_not_a_zero(monkeypatch):
    """The core turns it into INVALID."""
    monkeypatch.setattr("dovetail_math.pool.sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="did not start"):
        Pool(1).equal("\\sqrt{2}", "\\sqrt{5}", 5.0)


def test_broken_and_empty_files_are_told(tmp_path):
    """With the line; skip keeps the rest."""
    path = tmp_path / "problems.jsonl"
    good = json.dumps({"question": "1+1?", "answer": "two #### 2"})
    path.write_text(f'{good}\n{{"question": 3\n[1]\n{{"question": "x"}}\n{{"prompt": "2+2?", "answer": ""}}\n')
    with pytest.raises(DataError, match="line 2 cannot be read") as error:
        environments.math(path=str(path)).call("tasks", {"split": "train"})
    assert f"{path}:2" in str(error.value)
    kept = environments.math(path=str(path), on_broken="skip", held_out=0.0).call("tasks", {"split": "train"})
    assert [task.answer for task in kept] == ["2"]
    path.write_text("")
    with pytest.raises(DataError, match="has no problems"):
        environments.math(path=str(path)).call("tasks", {"split": "train"})
    with pytest.raises(DataError, match="cannot be read"):
        environments.math(path=str(tmp_path / "gone")).call("tasks", {"split": "train"})


@pytest.mark.parametrize(
    "options",
    [
        {"levels": ["algebra"]},
        {"notation": "reversed", "levels": ["word"]},
        {"template": "no place"},
        {"held_out": 1.0},
    ],
)
def test_options_that_do_not_fit_are_refused(options):
    """The error names the part."""
    with pytest.raises(OptionError, match="environments part 'math'"):
        environments.math(**options)


def test_small_problem_spaces_are_used_up_once():
    """All 10,000 two-digit sums, each once, split by a hash."""
    math = environments.math(size=20_000)
    train, test = (math.call("tasks", {"split": split}) for split in ("train", "test"))
    questions = {task.columns["question"] for task in [*train, *test]}
    assert len(questions) == len(train) + len(test) == 10_000
    assert 0.1 < len(test) / 10_000 < 0.15


def test_an_episode_without_a_task_takes_one_by_seed():
    """And a step before reset is refused."""

    async def play():
        episode = await Math().make()
        with pytest.raises(RuntimeError):
            await episode.step(None)
        first, second = await episode.reset(seed=3), await episode.reset(seed=3)
        assert first == second
        await episode.close()

    asyncio.run(play())
