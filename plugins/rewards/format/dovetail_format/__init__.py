"""Reward completions that keep a format."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from dovetail import hookimpl


@attrs.frozen
class Format:
    """Score 1 for a completion that keeps the format, else 0. Give either a pattern or tags.

    With ``partial``, a completion that misses the format scores ``k / (K + 1)`` when ``k`` of its ``K`` tags open and
    close exactly once: the last share is for their order and for nothing around them.

    Args:
        pattern: A regular expression that the whole completion must match; a dot matches line ends too. Keep it free
            of nested repetition such as ``(a+)+``: a match cannot be interrupted, not even by the run's deadline,
            unless ``process`` is true.
        tags: Names such as ``think, answer``: each opens and closes exactly once, in this order, with nothing but
            white space around them.
        partial: Give credit for each tag that opens and closes exactly once.
    """

    pattern: str | None = None
    tags: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    partial: bool = False
    _expression: re.Pattern[str] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if (self.pattern is None) == (not self.tags):
            raise ValueError("give either pattern or tags")
        if self.partial and not self.tags:
            raise ValueError("partial credit needs tags")
        for tag in self.tags:
            if not re.fullmatch(r"[^<>/\s]+", tag):
                raise ValueError(f"tags are names without brackets, slashes and white space, got {tag!r}")
            if self.tags.count(tag) > 1:
                raise ValueError(f"the tag {tag!r} is named more than once")
        try:
            expression = re.compile(self.pattern if self.pattern is not None else _tagged(self.tags), re.DOTALL)
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from error
        object.__setattr__(self, "_expression", expression)

    @hookimpl
    def score(self, texts: Sequence[str]) -> list[float]:
        """One number in [0, 1] for each text."""
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> float:
        right = sum(_opens_and_closes_once(text, tag) for tag in self.tags)
        # Tags are counted before the match: on a text that repeats them, the match alone takes time cubic and worse.
        if right == len(self.tags) and self._expression.fullmatch(text):
            return 1.0
        return right / (len(self.tags) + 1) if self.partial else 0.0


def _tagged(tags: Sequence[str]) -> str:
    return r"\s*" + r"\s*".join(f"<{re.escape(tag)}>.*?</{re.escape(tag)}>" for tag in tags) + r"\s*"


def _opens_and_closes_once(text: str, tag: str) -> bool:
    opening, closing = f"<{tag}>", f"</{tag}>"
    return text.count(opening) == text.count(closing) == 1 and text.index(opening) < text.index(closing)
