"""What the environment promises: tests decide, in a sandbox; solutions pass, the rest does not, and nothing leaks."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from dovetail import Message, environments
from dovetail.errors import DataError, OptionError, UserError
from dovetail.testing import part_checks
from dovetail_code import LEVELS
from dovetail_code.answers import program
from dovetail_code.problems import problems

HUMANEVAL = Path(__file__).parents[4] / "../shared/data/humaneval/HumanEval.jsonl.gz"
SECRET = 8675309

OWN = [
    {"prompt": "add", "function": "add", "solution": "def add(a, b): return a + b",
     "cases": [{"arguments": [1, 2], "expected": 3}, {"arguments": [SECRET, 0], "expected": SECRET}]},
    {"prompt": "double", "functions": ["double"], "solution": "```python\ndef double(x): return x * 2\n```",
     "setup": "import math", "asserts": "assert double(2) == 4\nassert math.isclose(double(0.1), 0.2)"},
    {"prompt": "sum of numbers", "solution": "print(sum(map(int, input().split())))",
     "stdio": [{"input": "1 2\n", "output": "3\n"}, {"input": "", "output": "none"}][:1]},
]  # fmt: skip
MBPP = {
    "task_id": 2,
    "text": "Write a function to find the shared elements.",
    "code": "def helper(x): return set(x)\ndef shared(a, b): return tuple(helper(a) & helper(b))",
    "test_list": ["assert set(shared((3, 4, 5), (5, 4))) == set((4, 5))", "assert set(shared((1,), (2,))) == set()"],
    "test_setup_code": "",
}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answer(task):
    return task.answer


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A file of our own format, with a problem of each kind."""
    return written(tmp_path_factory.mktemp("problems") / "own.jsonl", [*OWN, MBPP])


CASES = [{"levels": list(LEVELS), "size": 60}, {"turns": 2, "feedback": "inputs", "reward": "shaped"}]
CHECKS = [check for options in CASES for check in part_checks("environments", "code", options=options, gold=answer)]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """It keeps what every environment promises."""
    check()


async def play(part, task, *texts):
    """All results of an episode."""
    episode = await part.instance.make()
    results = [await episode.reset(seed=0, task=task)]
    for text in texts:
        results.append(await episode.step(Message("assistant", text)))
    await episode.close()
    return results


def tasks_of(part):
    return part.call("tasks", {"split": "train"})


def rewards(part, answer_of):
    """Of the first turn of every problem, many episodes at a time."""

    async def play_all():
        played = await asyncio.gather(*(play(part, task, answer_of(task)) for task in tasks_of(part)))
        return [results[-1].reward for results in played]

    return asyncio.run(play_all())


def test_humaneval_grades_its_own_solutions():
    """164 of 164 canonical solutions score 1, and not one empty answer."""
    if not HUMANEVAL.exists():
        pytest.skip(f"needs HumanEval.jsonl.gz at {HUMANEVAL}")
    part = environments.code(path=str(HUMANEVAL), held_out=0.0)
    assert sum(rewards(part, answer)) == len(tasks_of(part)) == 164
    assert sum(rewards(part, lambda task: "")) == 0


def test_every_format_grades_its_own_solutions(own):
    """Cases, asserts, standard input, MBPP; and a neighbour's solution fails."""
    part = environments.code(path=own, held_out=0.0)
    solutions = [task.answer for task in tasks_of(part)]
    assert rewards(part, answer) == [1.0] * 4
    wrong = dict(zip((task.id for task in tasks_of(part)), solutions[1:] + solutions[:1], strict=True))
    assert rewards(part, lambda task: wrong[task.id]) == [0.0] * 4


def test_generated_problems_are_distinct_and_the_same_at_each_call():
    """A seed orders them; small levels are used up once."""
    part = environments.code(levels=list(LEVELS), size=50_000)
    found = problems(part.instance)
    assert len({problem.prompt for problem in found}) == len(found) == 1000 + 1800 + 1000 + 40 + 30
    assert found == problems(part.instance)
    assert found != problems(environments.code(levels=list(LEVELS), size=50_000, seed=1).instance)


@pytest.mark.parametrize(
    ("text", "all_", "fraction", "shaped"),
    [
        ("def add(a, b): return a + b", 1.0, 1.0, 1.0),
        ("def add(a, b): return 3", 0.0, 0.5, 0.6),
        ("def add(a, b): return None", 0.0, 0.0, 0.2),
        ("def add(a, b):\n    return 3 if a == 1 else exit()", 0.0, 0.5, 0.6),
        ("import os\ndef add(a, b):\n    return 3 if a == 1 else os._exit(0)", 0.0, 0.5, 0.5),
        ("1 / 0", 0.0, 0.0, 0.1),
        ("def add(a, b) return", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_rewards_follow_their_rule(own, text, all_, fraction, shaped):
    """All or nothing, the share of tests, or a share for each step on the way."""
    for rule, expected in (("all", all_), ("fraction", fraction), ("shaped", shaped)):
        part = environments.code(path=own, held_out=0.0, reward=rule, answer="auto")
        assert asyncio.run(play(part, tasks_of(part)[0], text))[-1].reward == pytest.approx(expected), rule


def test_a_program_can_be_mended(own):
    """Feedback, another turn, a discount; the end is where it passes."""
    part = environments.code(path=own, held_out=0.0, turns=3, discount=0.5)
    _, first, second = asyncio.run(play(part, tasks_of(part)[0], "def add(a, b): return 1 // 0", OWN[0]["solution"]))
    assert (first.terminated, first.truncated, first.reward) == (False, False, 0.0)
    assert "ZeroDivisionError" in first.messages[0].content
    assert (second.reward, second.terminated, second.info["turn"]) == (0.5, True, 2)


def test_turns_run_out(own):
    """The episode is cut, and the last program counts."""
    part = environments.code(path=own, held_out=0.0, turns=2, reward="fraction")
    _, first, last = asyncio.run(play(part, tasks_of(part)[0], "no program (", "def add(a, b): return 3"))
    assert first.stop_reason is None
    assert (last.truncated, last.terminated, last.stop_reason, last.reward) == (True, False, "max_turns", 0.5)


@pytest.mark.parametrize("feedback", ["counts", "errors", "inputs"])
def test_feedback_never_reveals_what_was_expected(tmp_path, feedback):
    """Whatever the program does, the expected values are in no message and in no info."""
    canary = "canary-7c1e44"
    rows = [
        {"prompt": "a", "function": "f", "cases": [{"arguments": [1], "expected": canary}]},
        {
            "prompt": "b",
            "function": "f",
            "asserts": f"want = '{canary}'\nassert f(1) == want, want\nassert f(2) + want == 1",
        },
        {"prompt": "c", "stdio": [{"input": "1", "output": canary}]},
        {
            "prompt": "d",
            "function": "f",
            "asserts": f"table = {{'{canary}': 1}}\nassert table[f(1)]\ntable[f(2)] += f(3)",
        },
    ]
    part = environments.code(
        path=written(tmp_path / "p.jsonl", rows), held_out=0.0, turns=9, feedback=feedback, seconds=0.5
    )
    hostile = [
        "def f(x): return 1", "def f(x): raise ValueError(x)", "1 / 0", "def f(", "", "import os; os._exit(0)",
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        print(frame.f_locals, file=sys.stderr)"
        "\n        frame = frame.f_back\n    sys.stderr.flush()",
        "import os\nfor n in range(9):\n    try: os.write(2, os.read(n, 9999))\n    except OSError: pass\nf = None",
    ]  # fmt: skip
    for task in tasks_of(part):
        results = asyncio.run(play(part, task, *hostile))
        assert canary not in repr(results)
        assert all(result.messages for result in results)


def test_feedback_says_what_it_may(own):
    """The inputs of a test only if asked for."""
    texts = {}
    for feedback in ("counts", "errors", "inputs"):
        part = environments.code(path=own, held_out=0.0, turns=2, feedback=feedback)
        texts[feedback] = asyncio.run(play(part, tasks_of(part)[0], "def add(a, b): return 3"))[-1].messages[0].content
    assert texts["counts"] == "1 of 2 tests pass.\nMend the program and give all of it again."
    assert str(SECRET) not in texts["errors"]
    assert f"The first test that fails is add({SECRET}, 0).\nIt gave 3." in texts["inputs"]


def test_what_cannot_be_judged_is_an_error_not_a_zero(tmp_path):
    """The core turns it into INVALID."""
    path = written(tmp_path / "p.jsonl", [{"prompt": "a", "function": "f", "asserts": "assert f(1 =="}])
    part = environments.code(path=path, held_out=0.0)
    with pytest.raises(RuntimeError, match="could not be judged: the tests themselves are broken"):
        asyncio.run(play(part, tasks_of(part)[0], "def f(x): return 1"))


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("so\n```python\ndef f(): 1\n```\nthen\n```\nf()\n```", "auto", "def f(): 1\n"),
        ("```py\nx = 1\n```\n```\ny = 2\n```", "block", "y = 2\n"),
        ("```python\ndef f(): 1", "auto", "def f(): 1"),
        ("  ```Python\r\ndef f(): 1\r\n```", "auto", "def f(): 1\r\n"),
        ("def f(): 1", "auto", "def f(): 1"),
        ("f = lambda: 1", "auto", "f = lambda: 1"),
        ("def f(): 1", "block", None),
        ("```python\n\n```", "auto", None),
        (" \n", "completion", None),
    ],
)
def test_programs_are_found_in_answers(text, rule, expected):
    """The last block that defines what is asked for, an open one too."""
    assert program(text, rule, "", ["f"] if "f" in text else []) == expected


def test_completions_go_on_with_the_prompt():
    """To the end of the function, not further; a whole function stands beside it."""
    prefix = "import math\n\ndef f(x):\n    '''Double.'''\n"
    assert program("    return 2 * x\n\nprint(f(1))\n", "completion", prefix, ["f"]) == f"{prefix}    return 2 * x\n\n"
    assert program("```python\nreturn 2 * x\n```", "auto", prefix, ["f"]) == f"{prefix}    return 2 * x\n\n"
    assert program("def f(x): return 2 * x", "auto", prefix, ["f"]) == f"{prefix}\n\ndef f(x): return 2 * x"
    listed = "    return [\n1,\n]\n"
    assert program(" x * 2\nQ: and", "auto", "def f(x):\n    return", ["f"]) == "def f(x):\n    return x * 2\n"
    assert program(listed, "completion", prefix, ["f"]).startswith(prefix)


def test_broken_and_empty_files_are_told(tmp_path):
    """With the line and what is missing; skip keeps the rest."""
    path = tmp_path / "problems.jsonl"
    broken = [
        {"prompt": "no tests"},
        {"prompt": "no name", "cases": [{"arguments": [], "expected": 1}]},
        {"prompt": "half a case", "function": "f", "cases": [{"arguments": []}]},
        {**MBPP, "code": "x = 1"},
        {**MBPP, "test_list": ["assert other(1)"]},
        [1],
    ]
    for number, row in enumerate(broken):
        written(path, [OWN[0], row])
        with pytest.raises(DataError, match="line 2 cannot be read") as error:
            tasks_of(environments.code(path=str(path)))
        assert f"{path}:2" in str(error.value), number
    written(path, [OWN[0], *broken])
    assert len(tasks_of(environments.code(path=str(path), on_broken="skip", held_out=0.0))) == 1
    path.write_text("")
    with pytest.raises(DataError, match="has no problems"):
        tasks_of(environments.code(path=str(path)))
    with pytest.raises(DataError, match="cannot be read"):
        tasks_of(environments.code(path=str(tmp_path / "gone.jsonl.gz")))
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(OWN[0]).encode()))
    assert len(tasks_of(environments.code(path=str(packed), held_out=0.0))) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"levels": ["hard"]},
        {"template": "no place"},
        {"turns": 0},
        {"reward": "some"},
        {"discount": 0.0},
        {"memory": 1},
    ],
)
def test_options_that_do_not_fit_are_refused(options):
    """The error names the part."""
    with pytest.raises(OptionError, match="environments part 'code'"):
        environments.code(**options)


def test_a_run_without_its_sandbox_stops_before_it_starts():
    """And says what is missing."""
    with pytest.raises(UserError, match="does not work here"):
        environments.code(sandbox="basic", python="/bin/false").call("on_run_start", {"run": None})
    environments.code().call("on_run_start", {"run": None})


def test_an_episode_without_a_task_takes_one_by_seed():
    """And a step before reset is refused."""

    async def check():
        episode = await environments.code().instance.make()
        with pytest.raises(RuntimeError):
            await episode.step(None)
        assert await episode.reset(seed=3) == await episode.reset(seed=3)
        await episode.close()

    asyncio.run(check())
