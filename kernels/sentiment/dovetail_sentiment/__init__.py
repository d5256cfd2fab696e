"""Reward positive wording by VADER's lexicon, as a row kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs.validators import gt

from dovetail import hookimpl, kernel_op
from dovetail_sentiment import lexicon as lex
from dovetail_spelling import Listed, Spelled

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


def _scratch(longest: int) -> int:
    return 12 * 1024


def plain(completions: list[int], folded: list[bytes], lexicon: Mapping[bytes, lex.Word], alpha: float) -> float:
    """The score of one row in plain Python."""
    text = b"".join([folded[token] for token in completions if token < len(folded)])
    unknown, nothing = lex.Word(), lex.Word(flags=lex.RATED)
    words = [lexicon.get(code, unknown) for code in text.split(b"\0") if code]
    padded = [nothing, nothing, nothing, *words, unknown]
    values = [0.0] * len(words)
    for i, word in enumerate(words):
        follows = padded[i + 4].flags & lex.RATED
        if word.flags & lex.RATED and not word.boost and not (word.flags & lex.NO and follows):
            values[i] = _weighed(word, padded[i + 2], padded[i + 1], padded[i])
    buts = [i for i, word in enumerate(words) if word.flags & lex.BUT]
    if buts:
        values = [value * (0.5 if i < buts[0] else 1.5) for i, value in enumerate(values)]
    total = sum(values)
    return total / (total * total + alpha) ** 0.5


def _weighed(word: lex.Word, a: lex.Word, b: lex.Word, c: lex.Word) -> float:
    """The valence of a word behind a (the nearest), b and c."""
    value = word.valence
    if (a.flags | b.flags) & lex.NO or (c.flags & lex.NO and a.flags & lex.OR):
        value *= -0.74
    for back, before, fade in ((1, a, 1.0), (2, b, 0.95), (3, c, 0.9)):
        if before.flags & lex.RATED:
            continue
        value += fade * (-before.boost if value < 0 else before.boost)
        stronger = sure = 0
        if back == 2:
            stronger = b.flags & lex.NEVER and a.flags & lex.SO
            sure = b.flags & lex.WITHOUT and a.flags & lex.DOUBT
        elif back == 3:
            stronger = (c.flags & lex.NEVER and b.flags & lex.SO) or a.flags & lex.SO
            sure = c.flags & lex.WITHOUT and (a.flags | b.flags) & lex.DOUBT
        if stronger:
            value *= 1.25
        elif not sure and before.flags & lex.NEGATES:
            value *= -0.74
    if a.flags & lex.LEAST and not b.flags & lex.AT:
        value *= -0.74
    return value


@attrs.define(eq=False, slots=False)
class Sentiment(Spelled):
    """Score in (-1, 1), VADER's compound: ``s / sqrt(s² + alpha)``, s the sum of the valences of its words.

    Hutto and Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment analysis of social media text". A word
    of the lexicon counts its valence (-4 to 4), changed by the three words before it: boosters ("very", "barely") add
    or take 0.293, at a distance of two and three words 0.95 and 0.9 of it; negations ("not", "never", "without") turn
    it by -0.74; "never so" strengthens it by 1.25, "without doubt" leaves it. Before the first "but" valences count
    half, behind it one and a half. Left out of the original: emoticons and emoji, capitals, exclamation and question
    marks, idioms of several words.

    Args:
        words: Valences of further words, which go before VADER's; a word has no space in it. Usual: -4 to 4.
        alpha: What the sum is held against; raise it for long completions, which leave the score near ±1 otherwise.
            VADER takes 15.
        tokenizer: A tokenizer of transformers, or the name or folder of one; null takes the policy's.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "tokenizer": Listed(
            (" the", " and", " not", " good", " film", " ba", "d", ".", " very", " but", "ing", " was"), 32_000
        )
    }

    words: Mapping[str, float] = attrs.field(factory=dict)
    alpha: float = attrs.field(default=15.0, validator=gt(0))

    def __attrs_post_init__(self) -> None:
        for word in self.words:
            code = lex.fold(word)
            if not code or b"\0" in code:
                raise ValueError(f"words are single words of letters and digits, got {word!r}")

    def fold(self, text: str) -> bytes:
        return lex.fold(text)

    @property
    def lexicon(self) -> Mapping[bytes, lex.Word]:
        return lex.words(tuple(self.words.items()))

    @property
    def size(self) -> int:
        """Slots of the hash table."""
        return 1 << (2 * len(self.lexicon)).bit_length()

    def tables(self) -> dict[str, Any]:
        return {**super().tables(), **lex.hash_table(self.lexicon)}

    @hookimpl
    @kernel_op(path="sentiment.cu", scratch=_scratch, baseline=plain)
    def score(self, completions: Ragged) -> Tensor:
        """``[B]``; see the class."""
        from dovetail_sentiment.reference import scores

        return scores(self.table.spell(completions), self.lexicon, self.alpha)
