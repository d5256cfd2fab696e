"""What the policy is told of a program that failed: never what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetail_sandbox import Status

if TYPE_CHECKING:
    from dovetail_sandbox import Verdict

_AGAIN = "Mend the program and give all of it again."
_TELLING = {
    Status.SYNTAX_ERROR: "It is not valid Python.",
    Status.TIMEOUT: "It took too long.",
    Status.MEMORY: "It needed too much memory.",
    Status.OUTPUT_LIMIT: "It wrote too much.",
    Status.RUNTIME_ERROR: "It did not run to its end.",
}
_LONGEST = 800


def told(verdict: Verdict | None, rule: str) -> str:
    """A message by the option ``feedback``; ``verdict`` is None if the answer held no program.

    Everything in it comes from the program's own process, which never holds expected values, or is a count.
    """
    if verdict is None:
        return "The answer holds no program. Give it in one ```python block."
    lines = [f"{verdict.passed} of {verdict.total} tests pass."] if verdict.total else []
    if verdict.status in _TELLING:
        lines.append(_TELLING[verdict.status])
    if rule != "counts":
        lines += _errors(verdict)
    if rule == "inputs" and verdict.first_failure:
        first = verdict.first_failure
        lines.append(f"The first test that fails is {first.call or 'not a single call'}.")
        if first.returned:
            lines.append(f"It gave {first.returned}.")
    return "\n".join([*lines, _AGAIN])


def _errors(verdict: Verdict) -> list[str]:
    if verdict.stderr.strip():
        return [f"```\n{verdict.stderr.strip()[-_LONGEST:]}\n```"]
    first = verdict.first_failure
    return [f"A call raised {first.error}"] if first and first.error else []
