"""Reward completions that keep a format."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from dovetail import hookimpl


@attrs.frozen
class Format:
    """Score 1 for a completion that keeps the format, else 0; with ``partial``, the share of the tags that are right.

    Give either a pattern or tags.

    Args:
        pattern: A regular expression that the whole completion must match; a dot matches line ends too.
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
        if self._expression.fullmatch(text) and all(_once(text, tag) for tag in self.tags):
            return 1.0
        if not self.partial:
            return 0.0
        # One share is kept for what the tags alone do not tell: their order and what stands around them.
        return sum(_once(text, tag) for tag in self.tags) / (len(self.tags) + 1)


def _tagged(tags: Sequence[str]) -> str:
    return r"\s*" + r"\s*".join(f"<{re.escape(tag)}>.*?</{re.escape(tag)}>" for tag in tags) + r"\s*"


def _once(text: str, tag: str) -> bool:
    return text.count(f"<{tag}>") == 1 and text.count(f"</{tag}>") == 1
