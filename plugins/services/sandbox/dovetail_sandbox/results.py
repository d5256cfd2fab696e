"""What comes out of a run, and what it may use."""

from __future__ import annotations

import enum
import math
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs.validators import ge, gt

OUT_OF_MEMORY = 86  # the exit code by which a confined process says that nobody caught a MemoryError


class Status(enum.StrEnum):
    """How a run ended. Only ``SANDBOX_ERROR`` says nothing about the program."""

    OK = "ok"
    SYNTAX_ERROR = "syntax_error"
    RUNTIME_ERROR = "runtime_error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    SANDBOX_ERROR = "sandbox_error"


@attrs.frozen
class Limits:
    """What a run may use.

    Args:
        seconds: Of wall-clock time, enforced from outside by SIGKILL; as many of processor time.
        memory: Address space in MiB, the interpreter included. Usual range 128 to 2048.
        output: Bytes of standard output, and as many of standard error; a run that writes more is killed.
        disk: MiB in the run's own folder, which is gone afterwards.
        files: How many files and folders may be there.
    """

    seconds: float = attrs.field(default=5.0, validator=gt(0))
    memory: int = attrs.field(default=512, validator=ge(64))
    output: int = attrs.field(default=65_536, validator=gt(0))
    disk: int = attrs.field(default=16, validator=gt(0))
    files: int = attrs.field(default=256, validator=gt(0))

    def told(self, threads: int) -> dict[str, Any]:
        """As the monitor reads them, in bytes; ``threads`` of this user in all."""
        return {
            "seconds": self.seconds,
            "cpu": math.ceil(self.seconds),
            "memory": self.memory << 20,
            "file": self.disk << 20,
            "disk": self.disk << 20,
            "files": self.files,
            "threads": threads,
        }


@attrs.frozen
class Result:
    """One run. ``reason`` says more where the status is not ``ok``; output is capped and decoded as UTF-8."""

    status: Status
    reason: str = ""
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None  #: negative: the signal that ended it
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0  #: bytes resident at most


@attrs.frozen
class Failure:
    """The first test that failed, in terms of the solution alone: nothing here comes from what was expected."""

    case: int  #: counted from 1
    call: str = ""  #: ``f(2, 3)``; it shows inputs of the tests
    returned: str = ""
    error: str = ""  #: what the solution raised


@attrs.frozen
class Verdict:
    """What tests say of a solution. It has passed if every test ran and passed."""

    status: Status  #: of the solution's process
    passed: int = 0
    total: int = 0
    first_failure: Failure | None = None
    reason: str = ""
    stderr: str = ""

    @property
    def fraction(self) -> float:
        """Share of the tests that passed, 0 if there are none."""
        return self.passed / self.total if self.total else 0.0

    @property
    def has_passed(self) -> bool:
        return self.status == Status.OK and 0 < self.total == self.passed


def read_report(report: Mapping[str, Any] | None, is_too_long: bool) -> tuple[Status, str]:
    """The status and the reason, from what the monitor reported; None if it has reported nothing."""
    if report is None:
        return Status.SANDBOX_ERROR, "the sandbox ended without a report"
    ended, code, stages = report.get("ended"), report.get("exit"), report["stages"]
    if not stages:
        return Status.SANDBOX_ERROR, report.get("problem", "the sandbox could not be set up")
    if "syntax" in stages:  # it never ran, so that all its output is the interpreter's
        return Status.SYNTAX_ERROR, "it is not Python"
    if is_too_long:
        return Status.OUTPUT_LIMIT, "it wrote more than it may"
    if ended == "disk":
        return Status.OUTPUT_LIMIT, "it filled its folder"
    if ended in ("timeout", "cancelled") or code == -signal.SIGXCPU:
        return Status.TIMEOUT, "it was too slow"
    if code == OUT_OF_MEMORY or code == -signal.SIGKILL:
        return Status.MEMORY, "it needed too much memory"
    if code == 0:
        return Status.OK, ""
    return Status.RUNTIME_ERROR, _signal_name(code) if code and code < 0 else f"it ended with exit code {code}"


def _signal_name(code: int) -> str:
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"it was killed by {name}"


def judge(solution: Result, tests: Result, told: Mapping[str, Any] | None) -> Verdict:
    """One verdict of the two processes: the solution's, and that of its tests with what it told."""
    for result in (solution, tests):
        if result.status == Status.SANDBOX_ERROR:
            return Verdict(Status.SANDBOX_ERROR, reason=result.reason)
    if told is None:
        worse = solution if solution.status != Status.OK else tests
        if worse.status == Status.OK or (worse is tests and tests.status == Status.RUNTIME_ERROR):
            return Verdict(Status.SANDBOX_ERROR, reason=f"the tests gave no verdict: {tests.stderr[-300:]}")
        return Verdict(worse.status, total=1, reason=worse.reason, stderr=solution.stderr)
    if told["broken"]:
        return Verdict(Status.SANDBOX_ERROR, reason=f"the tests themselves are broken: {told['broken']}")
    status, reason = solution.status, solution.reason
    if status == Status.OK and told["lost"]:
        status, reason = Status.RUNTIME_ERROR, "it ended before its tests did"
    first = Failure(**told["first"]) if told["first"] else None
    return Verdict(status, told["passed"], told["total"], first, reason, solution.stderr)


def cut(data: Sequence[bytes], limit: int) -> str:
    """Output as text, at most ``limit`` bytes of it."""
    return b"".join(data)[:limit].decode("utf-8", "replace")
