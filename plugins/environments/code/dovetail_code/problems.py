"""Where problems come from, and which split they belong to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dovetail import DataError, Message, Task
from dovetail.jsonl import read_jsonl

if TYPE_CHECKING:
    from dovetail_code import Code

_EXAMPLE = '{"prompt": "…", "function": "add", "cases": [{"arguments": [1, 2], "expected": 3}]}'


@attrs.frozen
class Problem:
    """A prompt, and the tests of one of three kinds: ``asserts``, ``cases`` of a function, or ``stdio``."""

    prompt: str
    solution: str  #: an answer that passes, if one is known
    functions: Sequence[str] = ()
    prefix: str = ""  #: source code that the prompt has begun
    setup: str = ""  #: source code for the tests alone
    asserts: str = ""
    cases: Sequence[Mapping[str, Any]] = ()
    stdio: Sequence[Mapping[str, str]] = ()
    level: str = "file"
    name: str = ""

    def task(self, template: str, id: str) -> Task:
        facts = attrs.asdict(self, filter=lambda field, _: field.name not in ("prompt", "solution"))
        # A tuple would arrive as a list from another machine.
        columns = {name: [*value] if isinstance(value, tuple) else value for name, value in facts.items()}
        prompt = template.replace("{prompt}", self.prompt)
        return Task(id=id, messages=(Message("user", prompt),), answer=self.solution, columns=columns)


def problems(options: Code) -> Sequence[Problem]:
    """All problems, both splits.

    Raises:
        DataError: There are none, or the file cannot be read.
    """
    if options.path is None:
        from dovetail_code.generators import generate

        share = max(1, options.size // len(options.levels))
        return [one for level in options.levels for one in generate(level, share, options.seed)]
    found = list(read_jsonl(options.path, _problem, options.on_broken))
    if not found:
        raise DataError(f"{options.path} has no problems", hint=f"lines like {_EXAMPLE}")
    return found


def split_of(prompt: str, held_out: float) -> str:
    """``train`` or ``test``, by a hash of the text that is the same in every process."""
    number = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big")
    return "test" if number < held_out * 2**64 else "train"


def _problem(row: Any) -> Problem:
    if not isinstance(row, dict):
        raise TypeError(f"an object was expected, got {type(row).__name__}")
    if "canonical_solution" in row:
        return _humaneval(row)
    if "test_list" in row:
        return _mbpp(row)
    return _own(row)


def _humaneval(row: Mapping[str, Any]) -> Problem:
    """Chen et al. 2021, *Evaluating large language models trained on code* (arXiv 2107.03374)."""
    prompt, function = row["prompt"], row["entry_point"]
    return Problem(
        prompt, row["canonical_solution"], (function,), prefix=prompt, setup=prompt,
        asserts=f"{row['test']}\ncheck({function})\n", name=str(row.get("task_id", "")),
    )  # fmt: skip


def _mbpp(row: Mapping[str, Any]) -> Problem:
    """Austin et al. 2021, *Program synthesis with large language models* (arXiv 2108.07732); the prompt shows its tests
    there, which a template of ours leaves to the file."""
    functions = tuple(re.findall(r"^def (\w+)", row["code"], re.M))
    if not functions:
        raise ValueError("its code defines no function")
    setup = "\n".join([row.get("test_setup_code", ""), *row.get("test_imports", ())])
    prompt = row["text"] if "text" in row else row["prompt"]
    asserts = "\n".join(row["test_list"])
    called = [name for name in functions if re.search(rf"\b{name}\(", asserts)]
    if not called:
        raise ValueError("its tests call none of the functions that its code defines")
    solution, name = f"```python\n{row['code']}\n```", str(row.get("task_id", ""))
    return Problem(prompt, solution, called, setup=setup, asserts=asserts, name=name)


def _own(row: Mapping[str, Any]) -> Problem:
    kinds = [kind for kind in ("asserts", "cases", "stdio") if row.get(kind)]
    if not isinstance(row.get("prompt"), str) or len(kinds) != 1:
        raise ValueError(f"it needs prompt and one of asserts, cases and stdio, as in {_EXAMPLE}")
    functions = row.get("functions", [row["function"]] if "function" in row else [])
    if kinds != ["stdio"] and not functions:
        raise KeyError("function, the name that its tests call")
    fields = {"cases": ("arguments", "expected"), "stdio": ("input", "output")}.get(kinds[0], ())
    for case in row[kinds[0]] if fields else ():
        for field in fields:
            if field not in case:
                raise KeyError(f"{field}, in each of its {kinds[0]}")
    known = {key: row[key] for key in ("prefix", "setup", "asserts", "cases", "stdio", "level", "name") if key in row}
    return Problem(row["prompt"], row.get("solution", ""), tuple(functions), **known)
