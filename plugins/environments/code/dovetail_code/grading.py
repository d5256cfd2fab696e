"""Judging a program in the sandbox, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dovetail_sandbox import Failure, Limits, Sandbox, Status, Tests, Verdict, shared

if TYPE_CHECKING:
    from dovetail_code import Code

_SYNTAX, _RUNS = 0.1, 0.1  # of the shaped reward; the tests are the rest


def sandbox_for(options: Code) -> Sandbox:
    """The process's sandbox of that tier."""
    return shared(options.sandbox, options.workers, options.python)


async def grade(source: str, problem: Mapping[str, Any], options: Code) -> Verdict:
    """Run the tests of a problem, the columns of its task.

    Raises:
        RuntimeError: The sandbox or the tests failed, which says nothing about the program.
    """
    limits = Limits(seconds=options.seconds, memory=options.memory)
    box = sandbox_for(options)
    if problem["stdio"]:
        verdict = await _stdio(box, source, problem, limits, options.seed)
    else:
        known = [field.name for field in attrs.fields(Tests) if field.name in problem]
        tests = Tests(**{name: problem[name] for name in known})
        verdict = await box.test_async(source, tests, limits=limits, seed=options.seed)
    if verdict.status == Status.SANDBOX_ERROR:
        raise RuntimeError(f"the program could not be judged: {verdict.reason}")
    return verdict


async def _stdio(box: Sandbox, source: str, problem: Mapping[str, Any], limits: Limits, seed: int) -> Verdict:
    """A run for each case; what it writes is compared here, and the expected text never leaves this process."""
    passed, first, worst = 0, None, None
    cases = problem["stdio"]
    for number, case in enumerate(cases, start=1):
        result = await box.run_async(source, stdin=case["input"], limits=limits, seed=seed)
        if result.status in (Status.SANDBOX_ERROR, Status.SYNTAX_ERROR):
            return Verdict(result.status, 0, len(cases), reason=result.reason, stderr=result.stderr)
        if result.status == Status.OK and _words(result.stdout) == _words(case["output"]):
            passed += 1
            continue
        if result.status != Status.OK:
            worst = worst or result
        first = first or Failure(number, f"input {case['input'][:300]!r}", result.stdout[:300], result.stderr[-300:])
    if worst is None:
        return Verdict(Status.OK, passed, len(cases), first)
    return Verdict(worst.status, passed, len(cases), first, worst.reason, worst.stderr)


def _words(text: str) -> list[str]:
    """Lines without the blanks at their ends, and without empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def components(verdict: Verdict | None) -> dict[str, float]:
    """Whether it is Python, whether it runs, and the share of tests that pass; all 0 without a program."""
    if verdict is None:
        return {"syntax": 0.0, "runs": 0.0, "passed": 0.0}
    is_python, runs = verdict.status != Status.SYNTAX_ERROR, verdict.status == Status.OK
    return {"syntax": float(is_python), "runs": float(runs), "passed": verdict.fraction}


def worth(verdict: Verdict | None, rule: str) -> float:
    """The reward by the option ``reward``."""
    parts = components(verdict)
    if rule == "all":
        return float(verdict is not None and verdict.has_passed)
    if rule == "fraction":
        return parts["passed"]
    return _SYNTAX * parts["syntax"] + _RUNS * parts["runs"] + (1 - _SYNTAX - _RUNS) * parts["passed"]
