"""Finding the final answer in a completion, and reading exact numbers without evaluating anything."""

from __future__ import annotations

import re
from fractions import Fraction

_HASH = re.compile(r"####\s*([^\n]+)")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{\s*(-?\d{1,30})\s*\}\s*\{\s*(-?\d{1,30})\s*\}")
_PLAIN = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NOISE = re.compile(r"\\(?:text|mathrm)\s*\{[^{}]*\}|\\[,;!: ]|\\(?:left|right)\b|[$%\s]|\\\$|\\%|°")


class Ambiguous(ValueError):
    """The completion gives two different final answers."""


def final_answer(text: str, rule: str) -> str | None:
    """The final answer of a completion, or None if it gives none.

    Raises:
        Ambiguous: Two boxes differ.
    """
    if rule == "whole":
        return text.strip() or None
    if rule == "last_number":
        numbers = _NUMBER.findall(text)
        return numbers[-1] if numbers else None
    boxes = boxed(text)
    if len({normalised(box) for box in boxes}) > 1:
        raise Ambiguous(f"{len(boxes)} boxes differ")
    if boxes:
        return boxes[-1]
    marked = _HASH.findall(text)
    return marked[-1].strip() if marked else None


def boxed(text: str) -> list[str]:
    """What stands in each ``\\boxed{…}``, braces balanced."""
    found = []
    for match in re.finditer(r"\\boxed\s*\{", text):
        depth, start = 1, match.end()
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                found.append(text[start:place].strip())
                break
    return found


def normalised(text: str) -> str:
    """Without spacing, units in ``\\text{}``, currency and percent signs, ``x =`` in front and a full stop behind."""
    plain = _NOISE.sub("", text.strip()).removesuffix(".")
    plain = re.sub(r"^[a-zA-Z]=", "", plain)
    return _GROUPED.sub("", plain)


def exact_number(text: str) -> Fraction | None:
    """The number that a normalised text writes: a whole, a decimal, ``a/b`` or ``\\frac{a}{b}``; else None."""
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        sign, above, below = fraction.groups()
        return _ratio(above, below, -1 if sign else 1)
    above, slash, below = text.partition("/")
    if slash:
        return _ratio(above, below, 1) if _PLAIN.fullmatch(above) and _PLAIN.fullmatch(below) else None
    return Fraction(text) if _PLAIN.fullmatch(text) else None


def _ratio(above: str, below: str, sign: int) -> Fraction | None:
    bottom = Fraction(below)
    return sign * Fraction(above) / bottom if bottom else None
