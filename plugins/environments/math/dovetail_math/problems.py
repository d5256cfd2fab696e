"""Where problems come from, and which split they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dovetail import DataError, Message, Task
from dovetail.jsonl import read_jsonl
from dovetail_math.generators import generate

if TYPE_CHECKING:
    from dovetail_math import Math


@attrs.frozen
class Problem:
    """A question and its final answer."""

    question: str
    answer: str
    level: str
    solution: str = ""

    def task(self, template: str, id: str) -> Task:
        prompt = template.replace("{question}", self.question)
        columns = {"question": self.question, "level": self.level, "solution": self.solution}
        return Task(id=id, messages=(Message("user", prompt),), answer=self.answer, columns=columns)


def problems(options: Math) -> Sequence[Problem]:
    """All problems, both splits.

    Raises:
        DataError: There are none, or the file cannot be read.
    """
    if options.path is None:
        return [
            Problem(question, answer, level)
            for level in options.levels
            for question, answer in generate(
                level, options.digits, options.size // len(options.levels), options.seed, options.notation == "reversed"
            )
        ]
    found = list(read_jsonl(options.path, _problem, options.on_broken))
    if not found:
        raise DataError(f"{options.path} has no problems", hint='lines like {"question": "…", "answer": "… #### 72"}')
    return found


def split_of(question: str, held_out: float) -> str:
    """``train`` or ``test``, by a hash of the text that is the same in every process."""
    number = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big")
    return "test" if number < held_out * 2**64 else "train"


def _problem(row: Any) -> Problem:
    if not isinstance(row, dict):
        raise TypeError(f"an object was expected, got {type(row).__name__}")
    question = row.get("question", row.get("prompt"))
    if not isinstance(question, str) or "answer" not in row:
        raise KeyError("it needs question (or prompt) and answer")
    solution = str(row["answer"])
    answer = solution.rpartition("####")[2].strip().replace(",", "")
    if not answer:
        raise ValueError("its answer is empty")
    return Problem(question, answer, "file", solution if "####" in solution else "")
