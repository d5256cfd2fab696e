"""Phrases as an automaton that also knows them with repeated letters."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence

from dovetail_spelling import SEPARATOR, Automaton

LEET = str.maketrans("013457@$", "oieastas")
MANY = 3  # from here on the number of equal letters is no spelling

Run = tuple[int, int]  # a code and how often it stands there; of separators it does not matter how many


class Alphabet:
    """The letters of some phrases as codes: 0 separates, 1 is a letter that no phrase has."""

    def __init__(self, phrases: Iterable[str], leet: bool) -> None:
        self._leet = leet
        folded = [self._folded(phrase) for phrase in phrases]
        signs = {
            sign for phrase in folded for sign in phrase if not sign.isalnum() and not re.match(r"[\s\-_'’.,/]", sign)
        }
        self._signs = frozenset(signs)
        letters = sorted({byte for phrase in folded for byte in self._letters(phrase) if byte})
        self._codes = bytearray([1] * 256)
        self._codes[0] = SEPARATOR
        for place, byte in enumerate(letters):
            self._codes[byte] = 2 + place
        self.classes = 2 + len(letters)

    def _folded(self, text: str) -> str:
        """Lower case, compatible forms, no accents, and digits and signs that stand for letters as these."""
        plain = unicodedata.normalize("NFKD", text.casefold())
        bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
        return bare.translate(LEET) if self._leet else bare

    def _letters(self, folded: str) -> bytes:
        return re.sub(b"\0+", b"\0", b"".join(s.encode() if s.isalnum() or s in self._signs else b"\0" for s in folded))

    def codes(self, text: str) -> bytes:
        return self._letters(self._folded(text)).translate(bytes(self._codes))

    def codes_of_bytes(self, piece: bytes) -> bytes:
        """Of a token that holds a part of a character."""
        return b"".join(bytes([self._codes[byte]]) if byte >= 0x80 else self.codes(chr(byte)) for byte in piece)


def runs(codes: bytes) -> tuple[Run, ...]:
    """A phrase as runs of equal codes, separators at its ends left out."""
    return tuple((code, len(list(group))) for code, group in itertools.groupby(codes.strip(b"\0")))


def automaton(phrases: Sequence[tuple[Run, ...]], classes: int) -> Automaton:
    """Finds phrases; a letter that stands k times may also stand three times or more, and at least k times.

    A place is a phrase, a run of it, and how many of its codes were seen.
    """
    Place = tuple[int, int, int]

    def seen(place: Place) -> bool:
        """Whether the run may end here."""
        number, run, count = place
        code, wanted = phrases[number][run]
        return code == SEPARATOR or count == wanted or count >= max(wanted, MANY)

    def moves(place: Place) -> dict[int, list[Place]]:
        number, run, count = place
        if run < 0:
            return {phrases[number][0][0]: [(number, 0, 1)]}
        code, wanted = phrases[number][run]
        found = {code: [(number, run, 1 if code == SEPARATOR else min(count + 1, max(wanted, MANY)))]}
        if seen(place) and run + 1 < len(phrases[number]):
            found[phrases[number][run + 1][0]] = [(number, run + 1, 1)]
        return found

    def is_end(place: Place) -> bool:
        return place[1] == len(phrases[place[0]]) - 1 and seen(place)

    return Automaton.of(((number, -1, 0) for number in range(len(phrases))), moves, is_end, classes)


def expression(phrases: Iterable[tuple[Run, ...]]) -> re.Pattern[bytes]:
    """The same as a regular expression over codes: the places at which a phrase begins."""

    def written(run: Run) -> bytes:
        code, count = run
        letter = re.escape(bytes([code]))
        if code == SEPARATOR:
            return letter + b"+"
        least = max(count, MANY)
        return letter + (b"{%d,}" % least) if count == least else b"%b{%d}|%b{%d,}" % (letter, count, letter, least)

    alternatives = b"|".join(b"".join(b"(?:" + written(run) + b")" for run in phrase) for phrase in phrases)
    return re.compile(rb"(?<![^\0])(?=(?:" + alternatives + rb")(?:\0|\Z))")
