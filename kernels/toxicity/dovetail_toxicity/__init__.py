"""Penalise words and phrases of a list, repeated letters and all, as a row kernel."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs.validators import ge, le

from dovetail import DataError, hookimpl, kernel_op
from dovetail_spelling import ENGLISH, MATCHES, Automaton, Listed, Spelled, count, count_plainly, first_begins
from dovetail_toxicity import phrases as lists

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


def plain(
    completions: list[int], folded: list[bytes], expression: re.Pattern[bytes], per_hit: float, cap: int
) -> float:
    """The score of one row in plain Python."""
    text = b"".join([folded[token] for token in completions if token < len(folded)])
    return per_hit * count_plainly(text, expression, cap)


@attrs.define(eq=False, slots=False)
class Toxicity(Spelled):
    """Score ``per_hit * min(hits, cap)``, at most 0; a hit is a place where a word or phrase of the list stands.

    Phrases are found as whole words, whatever their case, accents and the signs or spaces between their words, and
    with a letter three times or more where it belongs (``baaad``); with ``leet`` also ``b4d`` and ``b@d``. No list
    comes with it. It does not understand: insults in other words, irony and threats pass; quotations, names and
    medical terms are penalised; letters set apart (``b a d``), doubled (``baad``), or left out pass.

    Args:
        words: Words and phrases. Give these, or a file, or both.
        file: A text file with one word or phrase to a line; lines that begin with ``#`` are left out.
        per_hit: Score of a hit. Usual: -1 to -0.1.
        cap: Most hits that count. Usual: 1 to 5.
        leet: Whether 0 1 3 4 5 7 @ $ stand for o i e a s t a s.
        tokenizer: A tokenizer of transformers, or the name or folder of one; null takes the policy's.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "words": ("bad word", "badly put", "inane", "wasp"),
        "tokenizer": Listed(ENGLISH, 32_000),
        "cap": 5,
    }

    words: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    file: str | None = None
    per_hit: float = attrs.field(default=-1.0, validator=le(0))
    cap: int = attrs.field(default=1, validator=ge(1))
    leet: bool = True

    def __attrs_post_init__(self) -> None:
        if not self.words and self.file is None:
            raise ValueError("give words, or a file with a word or phrase to a line")
        if not all(isinstance(word, str) and any(map(str.isalnum, word)) for word in self.words):
            raise ValueError("words hold at least one letter or digit")

    @functools.cached_property
    def phrases(self) -> tuple[str, ...]:
        """The words given and those of the file; a DataError tells if it cannot be read or is empty."""
        lines: list[str] = []
        if self.file is not None:
            try:
                lines = Path(self.file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"the list {self.file} cannot be read: {error}", hint="a text file in UTF-8") from error
        listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not (found := tuple(dict.fromkeys([*self.words, *listed]))):
            raise DataError(f"the list {self.file} holds no phrase", hint="one word or phrase to a line")
        return found

    @functools.cached_property
    def _alphabet(self) -> lists.Alphabet:
        return lists.Alphabet(self.phrases, self.leet)

    @functools.cached_property
    def _runs(self) -> list[tuple[lists.Run, ...]]:
        return sorted({runs for phrase in self.phrases if (runs := lists.runs(self._alphabet.codes(phrase)))})

    def fold_bytes(self, piece: bytes) -> bytes:
        try:
            return self._alphabet.codes(piece.decode())
        except UnicodeDecodeError:
            return self._alphabet.codes_of_bytes(piece)

    @functools.cached_property
    def automaton(self) -> Automaton:
        return lists.automaton(self._runs, self._alphabet.classes)

    @functools.cached_property
    def expression(self) -> re.Pattern[bytes]:
        """The same as a regular expression, for plain Python."""
        return lists.expression(self._runs)

    @property
    def classes(self) -> int:
        return self.automaton.classes

    @property
    def bounded(self) -> int:
        return 1

    @functools.cached_property
    def word(self) -> Tensor:
        """Every code but the separator is of a word, ``[classes]`` uint8."""
        import torch

        return (torch.arange(self.classes) > 0).to(torch.uint8)

    def tables(self) -> dict[str, Any]:
        first = first_begins(self.table, self.automaton, self.word, bounded=True)
        return {**super().tables(), "first": first, "steps": self.automaton.steps, "ends": self.automaton.ends}

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Learn the policy's tokenizer, and read the list before anything is sampled."""
        self.phrases  # noqa: B018
        super().on_run_start(run)

    @hookimpl
    @kernel_op(path=MATCHES, baseline=plain)
    def score(self, completions: Ragged) -> Tensor:
        """``[B]``; see the class."""
        hits = count(self.table.spell(completions), self.automaton, self.word, bounded=True)
        return self.per_hit * hits.clamp(max=self.cap)
