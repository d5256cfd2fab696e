"""Finding texts in what tokens spell: automata, and the kernel that walks them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged
    from dovetail_spelling.table import Table

S = TypeVar("S", bound=Hashable)

#: The row function: at how many places something begins that an automaton knows.
MATCHES = str(Path(__file__).with_name("matches.cu"))


@attrs.frozen(eq=False)
class Automaton:
    """What to look for, state 0 first."""

    steps: Tensor  #: ``[states * classes]`` int32, the next state for each code, or -1
    ends: Tensor  #: ``[states]`` uint8, 1 where something ends
    classes: int  #: codes are below it

    @classmethod
    def of(
        cls,
        start: Iterable[S],
        moves: Callable[[S], Mapping[int, Iterable[S]]],
        is_end: Callable[[S], bool],
        classes: int,
    ) -> Automaton:
        """Make one state of each set of places that can be reached together (Rabin and Scott 1959, definition 11).

        Args:
            start: Where one may be at first.
            moves: From a place, by code, to others.
            is_end: Whether something ends at a place.
            classes: Codes are below it.
        """
        import torch

        first = frozenset(start)
        numbers, todo = {first: 0}, [first]
        steps: list[list[int]] = []
        for here in todo:
            reached: dict[int, set[S]] = {}
            for place in here:
                for code, others in moves(place).items():
                    reached.setdefault(code, set()).update(others)
            row = [-1] * classes
            for code, places in reached.items():
                there = frozenset(places)
                if there not in numbers:
                    numbers[there] = len(todo)
                    todo.append(there)
                row[code] = numbers[there]
            steps.append(row)
        ends = [any(is_end(place) for place in here) for here in todo]
        return cls(torch.tensor(steps, dtype=torch.int32).flatten(), torch.tensor(ends, dtype=torch.uint8), classes)


def count(codes: Ragged, automaton: Automaton, word: Tensor, *, bounded: bool) -> Tensor:
    """``[B]`` int64, what the row function counts, in torch.

    Args:
        codes: Rows of codes.
        automaton: What to look for.
        word: ``[classes]``, nonzero for codes of which words are made.
        bounded: Neither end may stand inside a word.
    """
    found, _ = _walk(codes, automaton, word, bounded)
    return codes.row_ids[found].bincount(minlength=len(codes))


def first_begins(table: Table, automaton: Automaton, word: Tensor, *, bounded: bool) -> Tensor:
    """``[V]`` uint8, from where the row function must look at a token: its first place, counted from 1, at which something
    begins that ends in the token or may go on behind it; 0 for most tokens, in which there is none.
    """
    import torch

    from dovetail import Ragged

    offsets = table.begins.long()
    codes = Ragged(table.codes[: int(offsets[-1])].long(), offsets)
    begun = torch.cat(_walk(codes, automaton, word, bounded))
    none = len(codes.values) + 1
    first = torch.full((len(codes),), none)
    first.scatter_reduce_(0, codes.row_ids[begun], codes.positions[begun] + 1, "amin")
    return torch.where(first == none, 0, first.clamp(max=255)).to(torch.uint8)


def _walk(codes: Ragged, automaton: Automaton, word: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """Where something begins that ends in its row, and where something that its row's end cuts off."""
    import torch

    flat, device = codes.values, codes.values.device
    steps, ends = automaton.steps.to(device).long(), automaton.ends.to(device).bool()
    in_word = word.to(device).bool()[flat]
    first = codes.positions == 0
    before = torch.cat([in_word.new_zeros(1), in_word[:-1]])[: len(flat)] & ~first
    last = torch.cat([first[1:], first.new_ones(1)])[: len(flat)]
    at = torch.arange(len(flat), device=device)
    if bounded:
        at = at[~(in_word & before)]
    begun, state = at, steps[flat[at]]
    found, cut = [begun[:0]], [begun[:0]]
    while len(at):
        alive = state >= 0
        at, begun, state = at[alive], begun[alive], state[alive]
        following = torch.where(last[at], at, at + 1)
        inside = in_word[at] & in_word[following] & ~last[at] if bounded else torch.zeros_like(at, dtype=torch.bool)
        ended = ends[state] & ~inside
        found.append(begun[ended])
        cut.append(begun[~ended & last[at]])
        going = ~ended & ~last[at]
        at, begun, state = at[going] + 1, begun[going], state[going]
        state = steps[state * automaton.classes + flat[at]]
    return torch.cat(found), torch.cat(cut)


def count_plainly(text: bytes, expression: re.Pattern[bytes], cap: int) -> int:
    """Of one row's text, in plain Python: at how many places the expression matches, at most ``cap``."""
    return sum(1 for _ in itertools.islice(expression.finditer(text), cap))
