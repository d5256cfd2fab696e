"""Reward or penalise completions that hold given texts, as a row kernel."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs.validators import ge, min_len

from dovetail import UserError, hookimpl, kernel_op
from dovetail_spelling import ENGLISH, MATCHES, Automaton, Listed, Spelled, count, count_plainly, first_begins

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


def plain(
    completions: list[int], pieces: list[bytes], expression: re.Pattern[bytes], per_hit: float, cap: int
) -> float:
    """The score of one row in plain Python."""
    text = b"".join([pieces[token] for token in completions if token < len(pieces)])
    return per_hit * count_plainly(text, expression, cap)


@attrs.define(eq=False, slots=False)
class Patterns(Spelled):
    """Score ``per_hit * min(hits, cap)``; a hit is a place where one of the patterns begins.

    Patterns are plain texts, found in what the tokens spell, however they are cut into tokens: with signs, spaces,
    line ends and letters of any script, byte by byte in UTF-8. They may overlap; two that begin at one place are one
    hit. Special tokens spell nothing.

    Args:
        patterns: Texts to find. Usual: a few to some thousands.
        per_hit: Score of a hit; negative ones penalise. Usual: -0.5 to 0.5.
        cap: Most hits that count. Usual: 1 to 5.
        ignore_case: Whether ``Yes`` finds ``yes``; letters of ASCII only, because others may fold to other lengths.
        whole_words: A pattern that begins or ends with a letter, a digit or ``_`` is not found inside a longer word.
            Bytes beyond ASCII count as letters.
        tokenizer: A tokenizer of transformers, or the name or folder of one; null takes the policy's.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "patterns": ("as an AI", "therefore", "\\boxed{", "in conclusion", "I'm sorry"),
        "tokenizer": Listed(ENGLISH, 32_000),
    }

    patterns: tuple[str, ...] = attrs.field(converter=tuple, validator=min_len(1))
    per_hit: float = 0.1
    cap: int = attrs.field(default=5, validator=ge(1))
    ignore_case: bool = False
    whole_words: bool = False

    def __attrs_post_init__(self) -> None:
        if not all(isinstance(pattern, str) and pattern for pattern in self.patterns):
            raise ValueError("patterns are texts of at least one character")

    def _bytes(self, text: bytes) -> bytes:
        return text.lower() if self.ignore_case else text

    @functools.cached_property
    def _wanted(self) -> list[bytes]:
        return sorted({self._bytes(pattern.encode()) for pattern in self.patterns})

    @functools.cached_property
    def _codes(self) -> bytes:
        """The code of each byte: 0 for signs and 1 for letters that no pattern has."""
        found = sorted({byte for pattern in self._wanted for byte in pattern})
        codes = bytearray(1 if _is_word(byte) else 0 for byte in range(256))
        if len(found) > 254:
            raise UserError("patterns with more than 254 different bytes", hint="make two parts of them")
        for place, byte in enumerate(found):
            codes[byte] = 2 + place
        return bytes(codes)

    def fold_bytes(self, piece: bytes) -> bytes:
        return self._bytes(piece).translate(self._codes)

    @functools.cached_property
    def automaton(self) -> Automaton:
        coded = [pattern.translate(self._codes) for pattern in self._wanted]
        return Automaton.of(
            ((number, 0) for number in range(len(coded))),
            lambda at: {coded[at[0]][at[1]]: [(at[0], at[1] + 1)]} if at[1] < len(coded[at[0]]) else {},
            lambda at: at[1] == len(coded[at[0]]),
            classes=max(self._codes) + 1,
        )

    @property
    def classes(self) -> int:
        return self.automaton.classes

    @property
    def bounded(self) -> int:
        return int(self.whole_words)

    @functools.cached_property
    def word(self) -> Tensor:
        """Which codes are of letters, ``[classes]`` uint8."""
        import torch

        word = torch.zeros(self.classes, dtype=torch.uint8)
        for byte, code in enumerate(self._codes):
            word[code] = _is_word(byte)
        return word

    def tables(self) -> dict[str, Any]:
        first = first_begins(self.table, self.automaton, self.word, bounded=self.whole_words)
        return {**super().tables(), "first": first, "steps": self.automaton.steps, "ends": self.automaton.ends}

    @functools.cached_property
    def expression(self) -> re.Pattern[bytes]:
        """The same as a regular expression, for plain Python."""
        return re.compile(b"(?=" + b"|".join(map(self._as_expression, self._wanted)) + b")", self._flags)

    @property
    def _flags(self) -> int:
        return re.IGNORECASE if self.ignore_case else 0

    def _as_expression(self, pattern: bytes) -> bytes:
        letter = rb"[0-9A-Za-z_\x80-\xff]"
        before = rb"(?<!" + letter + rb")" if self.whole_words and _is_word(pattern[0]) else b""
        behind = rb"(?!" + letter + rb")" if self.whole_words and _is_word(pattern[-1]) else b""
        return before + re.escape(pattern) + behind

    @hookimpl
    @kernel_op(path=MATCHES, baseline=plain)
    def score(self, completions: Ragged) -> Tensor:
        """``[B]``; see the class."""
        hits = count(self.table.spell(completions), self.automaton, self.word, bounded=self.whole_words)
        return self.per_hit * hits.clamp(max=self.cap)


def _is_word(byte: int) -> bool:
    return byte >= 0x80 or chr(byte).isalnum() or byte == ord("_")
