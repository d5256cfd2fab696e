"""Where tasks come from: a seeded generator of calculations, or a file."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dovetail import DataError, Message, Task
from dovetail.jsonl import read_jsonl

if TYPE_CHECKING:
    from dovetail_tools import Tools

_OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
}
_ONE_STEP = tuple(_OPERATIONS)
_TWO_STEP = tuple((first, second) for first in "+-" for second in "+-*")


@attrs.frozen
class Problem:
    """A question, its answer, and the results on the way there, the last of which is the answer."""

    question: str
    answer: str
    level: str
    calls: tuple[str, ...] = ()  # that solve it, for the calculator
    steps: tuple[str, ...] = ()  # what they give
    files: Mapping[str, str] = attrs.field(factory=dict)

    def task(self, template: str, id: str) -> Task:
        columns = {"level": self.level, "calls": [*self.calls], "steps": [*self.steps], "files": dict(self.files)}
        prompt = template.replace("{question}", self.question)
        return Task(id=id, messages=(Message("user", prompt),), answer=self.answer, columns=columns)


def problems(options: Tools) -> Sequence[Problem]:
    """All problems, both splits.

    Raises:
        DataError: There are none, or the file cannot be read.
    """
    if options.path is None:
        size = -(-options.size // len(options.levels))
        return [
            problem for level in options.levels for problem in _generated(level, options.digits, size, options.seed)
        ]
    found = list(read_jsonl(options.path, _read, "stop"))
    if not found:
        raise DataError(f"{options.path} has no problems", hint='lines like {"question": "…", "answer": "…"}')
    return found


def split_of(question: str, held_out: float) -> str:
    """``train`` or ``test``, by a hash of the text that is the same in every process."""
    number = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big")
    return "test" if number < held_out * 2**64 else "train"


def _generated(level: str, digits: int, size: int, seed: int) -> Iterator[Problem]:
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits
    span = high - low
    kinds = len(_ONE_STEP) if level == "one_step" else len(_TWO_STEP) * span
    numbers = random.Random(f"{seed}/{level}/{digits}").sample(range(kinds * span**2), min(size, kinds * span**2))
    for number in numbers:
        rest, left = divmod(number, span)
        kind, right = divmod(rest, span)
        yield (_one_step if level == "one_step" else _two_step)(kind, left + low, right + low, low, span)


def _one_step(kind: int, left: int, right: int, *_: int) -> Problem:
    symbol = _ONE_STEP[kind]
    result = str(_OPERATIONS[symbol](left, right))
    return Problem(f"{left}{symbol}{right}", result, "one_step", (f"{left}{symbol}{right}",), (result,))


def _two_step(kind: int, left: int, right: int, low: int, span: int) -> Problem:
    operators, last = divmod(kind, span)
    first, second = _TWO_STEP[operators]
    last += low
    middle = _OPERATIONS[first](left, right)
    result = _OPERATIONS[second](middle, last)
    calls = (f"{left}{first}{right}", f"{middle}{second}{last}")
    return Problem(f"({left}{first}{right}){second}{last}", str(result), "two_step", calls, (str(middle), str(result)))


def _read(row: Any) -> Problem:
    if not isinstance(row, dict):
        raise TypeError(f"an object was expected, got {type(row).__name__}")
    if not isinstance(row.get("question"), str) or "answer" not in row:
        raise KeyError("it needs question and answer")
    files = row.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise TypeError("files must map names to texts")
    steps = tuple(str(step) for step in row.get("steps", ()))
    return Problem(row["question"], str(row["answer"]), str(row.get("level", "file")), (), steps, files)
