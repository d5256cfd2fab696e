"""Seeded problems for very small models: the head of a function that says what it returns, and the rest of the line.

Each level numbers its problems, and a seed chooses among the numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import attrs

from dovetail_code.problems import Problem

_INPUTS = (-7, -1, 0, 1, 2, 5, 10)
_LISTS = ([], [3], [1, 2, 3], [5, -1, 4, 4], [10, 0, -10])
_TEXTS = ("", "a", "abba", "Hello", "one two")
_ON_LISTS = (
    ("the sum", "sum(x)", sum),
    ("the length", "len(x)", len),
    ("x in reverse", "x[::-1]", lambda x: x[::-1]),
    ("x sorted", "sorted(x)", sorted),
    ("the first {n} items", "x[:{n}]", lambda x, n: x[:n]),
    ("each item plus {n}", "[i + {n} for i in x]", lambda x, n: [i + n for i in x]),
    ("how often {n} is in x", "x.count({n})", lambda x, n: x.count(n)),
    ("the items above {n}", "[i for i in x if i > {n}]", lambda x, n: [i for i in x if i > n]),
)
_ON_TEXTS = (
    ("x in upper case", "x.upper()", str.upper),
    ("the number of letters", "len(x)", len),
    ("x backwards", "x[::-1]", lambda x: x[::-1]),
    ("x {n} times", "x * {n}", lambda x, n: x * n),
    ("the first {n} letters", "x[:{n}]", lambda x, n: x[:n]),
    ("the last {n} letters", "x[-{n}:]", lambda x, n: x[-n:]),
)


@attrs.frozen
class Level:
    """How many problems there are; the text, the expression and the function of one of them; what to try it with."""

    count: int
    make: Callable[[int], tuple[str, str, Callable[..., object]]]
    inputs: tuple[object, ...] = _INPUTS


def generate(level: str, size: int, seed: int) -> Iterator[Problem]:
    """Distinct problems, at most ``size``, in a seeded order."""
    chosen = _LEVELS[level]
    numbers = random.Random(f"{seed}/{level}").sample(range(chosen.count), min(size, chosen.count))
    return (_problem(level, chosen, number) for number in numbers)


def _problem(level: str, chosen: Level, number: int) -> Problem:
    text, expression, function = chosen.make(number)
    prompt = f"def f(x):\n    # {text}\n    return"
    cases = [{"arguments": [given], "expected": function(given)} for given in chosen.inputs]
    return Problem(prompt, f" {expression}", ("f",), prefix=prompt, cases=cases, level=level, name=f"{level}-{number}")


def _constant(number: int) -> tuple[str, str, Callable[..., object]]:
    return f"always {number}", str(number), lambda x: number


def _linear(number: int) -> tuple[str, str, Callable[..., object]]:
    rest, offset = divmod(number, 100)
    factor, sign = rest // 2 + 1, rest % 2
    word, symbol, shift = ("minus", "-", -offset) if sign else ("plus", "+", offset)
    product = "x" if factor == 1 else f"x * {factor}"
    times = "x" if factor == 1 else f"x times {factor}"
    return f"{times} {word} {offset}", f"{product} {symbol} {offset}", lambda x: x * factor + shift


def _branch(number: int) -> tuple[str, str, Callable[..., object]]:
    rest, bound = divmod(number, 10)
    below, above = divmod(rest, 10)
    text = f"{above} if x is above {bound}, else {below}"
    return text, f"{above} if x > {bound} else {below}", lambda x: above if x > bound else below


def _drawn(
    table: tuple[tuple[str, str, Callable[..., object]], ...], number: int
) -> tuple[str, str, Callable[..., object]]:
    """The entry of a number; those with an ``{n}`` come once for each n from 1 to 9, the others once."""
    rows = [(*row, n) for row in table for n in (range(1, 10) if "{n}" in row[0] else (None,))]
    text, expression, function, n = rows[number]
    return text.format(n=n), expression.format(n=n), function if n is None else (lambda x: function(x, n))


def _size(table: tuple[tuple[str, str, Callable[..., object]], ...]) -> int:
    return sum(9 if "{n}" in row[0] else 1 for row in table)


_LEVELS = {
    "constant": Level(1000, _constant),
    "linear": Level(100 * 2 * 9, _linear),
    "branch": Level(1000, _branch),
    "list": Level(_size(_ON_LISTS), lambda number: _drawn(_ON_LISTS, number), _LISTS),
    "text": Level(_size(_ON_TEXTS), lambda number: _drawn(_ON_TEXTS, number), _TEXTS),
}
