"""Seeded bugs: what authors of row functions get wrong, planted one at a time into the text of a kernel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs


@attrs.frozen
class Mutant:
    """A text with one bug."""

    what: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


def mutants(text: str) -> list[Mutant]:
    """Every bug that can be planted, in the order of the lines. Comments stay as they are."""
    bare = re.sub(r"/\*.*?\*/|//[^\n]*", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.S)
    found = [mutant for what, pattern, change in _BUGS for mutant in _planted(text, bare, what, pattern, change)]
    return sorted(found, key=lambda mutant: mutant.line)


def _planted(
    text: str, bare: str, what: str, pattern: str, change: Callable[[re.Match[str], str], tuple[int, str] | None]
) -> Iterator[Mutant]:
    for match in re.finditer(pattern, bare):
        if (changed := change(match, bare)) is not None:
            end, new = changed
            yield Mutant(what, bare.count("\n", 0, match.start()) + 1, text[: match.start()] + new + text[end:])


def _becomes(new: str) -> Callable[[re.Match[str], str], tuple[int, str]]:
    return lambda match, _: (match.end(), match.expand(new))


def _arguments(match: re.Match[str], text: str) -> tuple[list[str], int]:
    """What stands in the parentheses that a match opens, and where they end."""
    depth, start, pieces = 1, match.end(), []
    for place in range(match.end(), len(text)):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[place], 0)
        if depth == 0 or (depth == 1 and text[place] == ","):
            pieces.append(text[start:place].strip())
            start = place + 1
        if depth == 0:
            return pieces, place + 1
    return pieces, len(text)


def _own_share(match: re.Match[str], text: str) -> tuple[int, str]:
    (value,), end = _arguments(match, text)
    return end, f"({value})"


def _not_atomic(match: re.Match[str], text: str) -> tuple[int, str]:
    (place, old, new), end = _arguments(match, text)
    return end, f"(*({place}) == ({old}) ? (*({place}) = ({new}), ({old})) : *({place}))"


def _torn_add(match: re.Match[str], text: str) -> tuple[int, str]:
    (place, value), end = _arguments(match, text)
    return end, f"(*({place}) += ({value}))"


_BUGS: tuple[tuple[str, str, Callable[[re.Match[str], str], tuple[int, str] | None]], ...] = (
    ("a barrier is missing", r"\bc\.sync\(\)", _becomes("(void)0")),
    ("only some threads come to a barrier", r"\bc\.sync\(\)", _becomes("if (c.tid == 0) c.sync()")),
    ("a thread keeps its share of a sum", r"\bc\.sum\(", _own_share),
    ("an exchange is not atomic", r"\bc\.cas\(", _not_atomic),
    ("an addition is not atomic", r"\bc\.add\(", _torn_add),
    ("every thread does all the work", r"= c\.tid\b", _becomes("= 0")),
    ("threads do each other's work", r"\+= c\.nth\b", _becomes("+= 1")),
    ("a loop goes one too far", r"\bi < len\b", _becomes("i <= len")),
    ("off by one", r"(\w|\)) [+-] 1(?![\w.])", _becomes(r"\1")),
)
