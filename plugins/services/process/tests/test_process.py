"""What happens in a worker process stays there: other scores, the deadline and the run hold."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator

import attrs
import pytest
import torch

from dovetail import Message, Ragged, RewardStatus, Rollouts, Task, Tasks, hookimpl, rewards
from dovetail.errors import DataError, PartError, UserError
from dovetail.parts import build_part
from dovetail.registry import as_part
from dovetail.runtime.scoring import Offloader, PendingScores
from dovetail.testing import part_checks

MODULE = '''
"""Rewards that go wrong, in a module that a worker process can import."""

import asyncio
import ctypes
import os
import re
import subprocess
import sys

import attrs

from dovetail import hookimpl

held = []


@attrs.frozen
class Matches:
    """Whether a text matches, by backtracking, which holds the interpreter.

    Args:
        announce: A pipe to which the process writes its number, and which it holds open while it lives.
    """

    traits = ("cpu_heavy",)
    announce: str = ""

    @hookimpl
    def score(self, texts):
        if self.announce:
            held.append(open(self.announce, "w"))
            print(os.getpid(), file=held[-1], flush=True)
        return [float(re.match("(a+)+$", text) is not None) for text in texts]


def deadly(texts):
    """Ends its process at some texts."""
    for text in texts:
        if text == "exit":
            os._exit(3)
        if text == "crash":
            ctypes.string_at(0)
        if text == "raise":
            raise ValueError("no score for this")
    return [1.0] * len(texts)


def children(texts, *, announce):
    """Waits for a process of its own."""
    with open(announce, "w") as pipe:
        child = subprocess.Popen(["sleep", "1000"], stdout=pipe)
        print(os.getpid(), file=pipe, flush=True)
    child.wait()


async def patient(texts, tasks):
    """Async, and grades by a column."""
    await asyncio.sleep(0)
    return [float(text == answer) for text, answer in zip(texts, tasks["answer"])]


def number(texts):
    """Of its process."""
    return [float(os.getpid())] * len(texts)


def loaded(texts, tasks, messages, finish_reasons):
    """Whether torch is there."""
    return [float("torch" in sys.modules)] * len(texts)


def threads(completions):
    """How many torch uses."""
    import torch

    return [float(torch.get_num_threads())] * len(completions)


def everything(rollouts, groups):
    """Sees texts and groups."""
    return [len(text) + 10.0 * group for text, group in zip(rollouts.texts, groups.tolist())]


def short(texts):
    return [1.0]


def column(tasks):
    return tasks["absent"]
'''


@pytest.fixture
def odd(tmp_path, monkeypatch) -> Iterator[types.ModuleType]:
    """The module above, on the path."""
    (tmp_path / "odd_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import odd_rewards

    yield odd_rewards
    del sys.modules["odd_rewards"]


@pytest.fixture
def offloader() -> Iterator[Offloader]:
    with contextlib.closing(Offloader()) as one:
        yield one


@pytest.fixture
def pipe(tmp_path):
    """Its reading end ends when every process that holds it is dead."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def rollouts_of(*texts: str, **columns: object) -> Rollouts:
    tokens = Ragged.from_rows([[ord(letter) for letter in "?" + text] for text in texts], dtype=torch.int64)
    tasks = [Task(str(row), (Message("user", "?"),), answer=texts[row], columns=columns) for row in range(len(texts))]
    return Rollouts(
        tokens=tokens,
        origin=tokens.with_values((tokens.positions > 0).to(torch.uint8)),
        groups=torch.arange(len(texts)),
        tasks=Tasks(tasks),
        finish_reasons=("stop",) * len(texts),
        decode=lambda row: "".join(map(chr, row)),
    )


def in_process(target: object, **options: object):
    return attrs.evolve(build_part("rewards", "odd", target, options), process=True)


def pending(part, rollouts, offloader, timeout=60.0) -> PendingScores:
    return PendingScores(part, rollouts, offloader, timeout)


def score(*arguments, **options):
    return pending(*arguments, **options).result()


def statuses(scores) -> list[str]:
    return [RewardStatus(int(status)).name for status in scores.status]


def test_a_match_without_end_is_killed_at_the_deadline_and_replaced(odd, offloader):
    """The regular expression holds its interpreter, not ours; the next batch finds a new process."""
    part = as_part("rewards", odd.Matches)
    assert score(part, rollouts_of("aa", "ab"), offloader).values.tolist() == [1.0, 0.0]
    first, started = offloader.worker(part).pid, time.monotonic()
    scores = score(part, rollouts_of("aa", "a" * 40 + "b"), offloader, timeout=0.2)
    assert time.monotonic() - started < 5
    assert statuses(scores) == ["TIMEOUT", "TIMEOUT"]
    assert scores.reasons[0] == "no answer within 0.2 s"
    assert offloader.worker(part).pid != first
    assert score(part, rollouts_of("aa"), offloader).values.tolist() == [1.0]


def test_the_start_of_a_process_does_not_count(odd, offloader):
    """A deadline shorter than Python needs to start holds for the scoring alone."""
    assert statuses(score(in_process(odd.deadly), rollouts_of("a"), offloader, timeout=0.5)) == ["OK"]


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        ("exit", "its worker process ended with exit code 3"),
        ("crash", "its worker process was killed by SIGSEGV"),
        ("raise", "ValueError: no score for this at"),
    ],
)
def test_one_poisonous_sample_costs_no_other_its_score(odd, offloader, poison, reason):
    """Rows are scored again one by one, by a new process where the old one died."""
    scores = score(in_process(odd.deadly), rollouts_of("a", poison, "b"), offloader)
    assert statuses(scores) == ["OK", "INVALID", "OK"]
    assert scores.values[scores.valid].tolist() == [1.0, 1.0]
    assert scores.reasons[1].startswith(reason)
    assert poison != "raise" or "odd_rewards.py" in scores.reasons[1]


def test_retries_share_the_deadline_of_their_batch(odd, offloader):
    """Poison upon poison costs a deadline, not one for each row."""
    part, started = in_process(odd.deadly), time.monotonic()
    score(part, rollouts_of("a"), offloader)
    scores = score(part, rollouts_of(*["exit"] * 500), offloader, timeout=0.5)
    assert time.monotonic() - started < 30
    assert set(statuses(scores)) <= {"INVALID", "TIMEOUT"}
    assert statuses(scores)[-1] == "TIMEOUT"


def test_a_process_starts_when_it_is_needed_and_stays_warm(odd, offloader):
    """Also across a death in between, as by the kernel for want of memory."""
    part, rollouts = in_process(odd.number), rollouts_of("a", "b")
    worker = offloader.worker(part)
    assert worker.pid is None
    first = score(part, rollouts, offloader).values[0].item()
    assert first == score(part, rollouts, offloader).values[0].item() == worker.pid != os.getpid()
    os.kill(worker.pid, signal.SIGKILL)
    assert score(part, rollouts, offloader).values.tolist() == [worker.pid] * 2
    assert worker.pid != first


def test_a_process_loads_torch_only_if_its_reward_needs_it(odd, offloader):
    """Texts, tasks, messages and finish reasons travel without."""
    assert score(in_process(odd.loaded), rollouts_of("a"), offloader).values.tolist() == [0.0]


def test_torch_has_one_thread_in_a_process(odd, offloader, monkeypatch):
    """Whatever the run has."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert score(in_process(odd.threads), rollouts_of("a"), offloader).values.tolist() == [1.0]


def test_what_the_hook_asks_for_travels(odd, offloader):
    """Columns of tasks and async hooks; whole rollouts, with their texts and without the tokenizer."""
    assert score(in_process(odd.patient), rollouts_of("a", "b"), offloader).values.tolist() == [1.0, 1.0]
    assert score(in_process(odd.everything), rollouts_of("a", "bcd"), offloader).values.tolist() == [1.0, 13.0]


def test_what_cannot_travel_is_told(odd, offloader):
    """By name, with the way out."""
    with pytest.raises(PartError, match="its texts and tasks cannot be sent to its worker process") as error:
        score(in_process(odd.patient), rollouts_of("a", column=lambda: None), offloader)
    assert "process=False" in str(error.value)


def test_a_reward_that_breaks_its_contract_stops_the_run(odd, offloader):
    """As in a thread: too few values, a column that no task has."""
    with pytest.raises(PartError, match="returned 1 values for 2 sequences"):
        score(in_process(odd.short), rollouts_of("a", "b"), offloader)
    with pytest.raises(DataError, match="has no column 'absent'"):
        score(in_process(odd.column), rollouts_of("a"), offloader)


class Stateful:
    @hookimpl
    def score(self, texts):
        return [0.0] * len(texts)

    def state_dict(self):
        return {}


class Listening:
    @hookimpl
    def score(self, texts):
        return [0.0] * len(texts)

    @hookimpl
    def on_step_end(self, step):
        pass


class Secretive:
    def __init__(self, *, level: int) -> None:
        self._level = level

    @hookimpl
    def score(self, texts):
        return [0.0] * len(texts)


def in_main(texts):
    return [0.0] * len(texts)


in_main.__module__ = "__main__"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Stateful(), "it keeps a state"),
        (Listening(), "it listens to on_step_end"),
        (Secretive(level=1), "its option 'level' cannot be read back"),
        (in_main, "'in_main' is defined in the script itself"),
        (lambda texts: [0.0], "is defined in no module under its own name"),
    ],
)
def test_what_no_process_can_make_again_is_refused_before_anything_runs(offloader, target, message):
    """The error says what to do."""
    part = attrs.evolve(as_part("rewards", target), process=True)
    with pytest.raises(UserError, match=message) as error:
        offloader.worker(part)
    assert "process=False to score it in a thread" in error.value.hint


def test_a_module_that_a_process_cannot_import_is_told(offloader, monkeypatch):
    """It is known to this process alone."""
    module = types.ModuleType("only_here")
    exec("def plain(texts): return [0.0] * len(texts)", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(UserError, match="cannot import only_here:plain: ModuleNotFoundError") as error:
        score(in_process(module.plain), rollouts_of("a"), offloader)
    assert "PYTHONPATH" in error.value.hint


def test_closing_ends_a_batch_and_its_process(odd, offloader, pipe):
    """It is TIMEOUT at once, whatever its deadline; what comes after starts anew."""
    part = in_process(odd.Matches, announce=str(pipe))
    waiting = pending(part, rollouts_of("a" * 40 + "b"), offloader, timeout=1000)
    with pipe.open() as announced:
        assert int(announced.readline()) == offloader.worker(part).pid
        offloader.close()
        assert announced.read() == ""
    scores = waiting.result()
    assert statuses(scores) == ["TIMEOUT"]
    assert scores.reasons[0] == "the run ended before an answer"
    assert offloader.worker(part).pid is None


def test_what_a_reward_has_started_is_killed_with_it(odd, offloader, pipe):
    """The deadline holds for its children too."""
    waiting = pending(in_process(odd.children, announce=str(pipe)), rollouts_of("a"), offloader, timeout=0.5)
    with pipe.open() as announced:
        assert announced.readline()
        assert announced.read() == ""
    assert statuses(waiting.result()) == ["TIMEOUT"]


ORPHAN = """
import sys
sys.path[:0] = sys.argv[2:]
import odd_rewards
from test_process import in_process, pending, rollouts_of
from dovetail.runtime.scoring import Offloader
pending(in_process(odd_rewards.Matches, announce=sys.argv[1]), rollouts_of("a" * 40 + "b"), Offloader(), 1000).result()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that holds its interpreter ends with its work")
def test_a_process_dies_with_its_run(odd, pipe):
    """kill -9 of the run in the middle of a match leaves no orphan."""
    command = [sys.executable, "-c", ORPHAN, str(pipe), os.path.dirname(odd.__file__), os.path.dirname(__file__)]
    run = subprocess.Popen(command)
    with pipe.open() as announced:
        assert int(announced.readline()) != run.pid
        run.send_signal(signal.SIGKILL)
        assert announced.read() == ""
    assert run.wait() == -signal.SIGKILL


def test_an_installed_reward_is_found_by_its_entry_point(tmp_path, monkeypatch, offloader):
    """In a real distribution; one of another version is refused."""
    from dovetail import catalog

    info = tmp_path / "plugin_brief-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-brief\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[dovetail.rewards]\nbrief = plugin_brief:brief\n")
    (tmp_path / "plugin_brief.py").write_text(
        "def brief(texts, *, scale=1.0):\n    return [-scale * len(t) for t in texts]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog.entries.cache_clear()
    try:
        part = rewards.brief(scale=2.0, process=True)
        assert score(part, rollouts_of("abc"), offloader).values.tolist() == [-6.0]
        other = attrs.evolve(part, provenance=attrs.evolve(part.provenance, version="1.1"))
        with pytest.raises(UserError, match=r"found plugin-brief 1\.2 .*, and the run uses plugin-brief 1\.1"):
            score(other, rollouts_of("abc"), offloader)
    finally:
        monkeypatch.undo()
        catalog.entries.cache_clear()
        sys.modules.pop("plugin_brief", None)


def test_the_kit_checks_a_reward_in_its_process(odd, monkeypatch):
    """Beside all that it checks of any other."""
    monkeypatch.setitem(rewards._own, "matches", odd.Matches)
    monkeypatch.setitem(rewards._own, "threads", odd.threads)
    checks = part_checks("rewards", "matches", bounds=(0, 1))
    assert "a worker process gives the same scores" in map(str, checks)
    assert "a worker process gives the same scores" not in map(str, part_checks("rewards", "threads"))
    for check in checks:
        check()
