"""Seeded problem generators: each level numbers its problems, and a seed chooses among the numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import attrs

_NAMES = ("Ada", "Ben", "Chloe", "Dan", "Eva", "Finn", "Gita", "Hugo")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "tickets")
_STORIES = (
    ("{name} has {a} {thing} and finds {b} more. How many {thing} does {name} have now?", lambda a, b: a + b),
    ("{name} had {a} {thing} and gave {b} away. How many {thing} are left?", lambda a, b: a - b),
    ("{name} packs {a} boxes with {b} {thing} each. How many {thing} are packed?", lambda a, b: a * b),
)


@attrs.frozen
class Level:
    """How many problems there are, and the one of a number."""

    count: int
    make: Callable[[int], tuple[str, str]]


def generate(level: str, digits: int, size: int, seed: int, reverse: bool) -> Iterator[tuple[str, str]]:
    """Distinct questions with their answers, at most ``size``, in a seeded order."""
    chosen = {
        "addition": lambda: _arithmetic("+", digits, reverse),
        "subtraction": lambda: _arithmetic("-", digits, reverse),
        "multiplication": lambda: _arithmetic("*", digits, reverse),
        "linear": lambda: _linear(digits),
        "word": lambda: _word(digits),
    }[level]()
    numbers = random.Random(f"{seed}/{level}/{digits}").sample(range(chosen.count), min(size, chosen.count))
    return (chosen.make(number) for number in numbers)


def _arithmetic(symbol: str, digits: int, reverse: bool) -> Level:
    base = 10**digits
    width = 2 * digits if symbol == "*" else digits + 1

    def make(number: int) -> tuple[str, str]:
        left, right = divmod(number, base)
        if symbol == "-":
            left, right = max(left, right), min(left, right)
        result = {"+": left + right, "-": left - right, "*": left * right}[symbol]
        if reverse:
            return f"{left:0{digits}d}{symbol}{right:0{digits}d}=", f"{result:0{width}d}"[::-1]
        return f"{left}{symbol}{right}=", str(result)

    return Level(base * base, make)


def _linear(digits: int) -> Level:
    """``a x + b = c`` with a whole solution."""
    base = 10**digits

    def make(number: int) -> tuple[str, str]:
        rest, slope = divmod(number, 8)
        solution, offset = divmod(rest, base)
        slope += 2
        return f"Solve for x: {slope}x + {offset} = {slope * solution + offset}", str(solution)

    return Level(8 * base * base, make)


def _word(digits: int) -> Level:
    base = 10**digits
    names, things, stories = len(_NAMES), len(_THINGS), len(_STORIES)

    def make(number: int) -> tuple[str, str]:
        rest, name = divmod(number, names)
        rest, thing = divmod(rest, things)
        rest, story = divmod(rest, stories)
        left, right = divmod(rest, base)
        text, rule = _STORIES[story]
        left, right = max(left, right) + 2, min(left, right) + 1
        question = text.format(name=_NAMES[name], thing=_THINGS[thing], a=left, b=right)
        return question, str(rule(left, right))

    return Level(names * things * stories * base * base, make)
