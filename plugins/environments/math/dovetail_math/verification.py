"""Is this the right answer? Text, then exact numbers, then math-verify at arm's length."""

from __future__ import annotations

import asyncio
import re

from dovetail_math.answers import exact_number, normalised
from dovetail_math.pool import shared_pool

LONGEST = 512
_HAZARDS = (
    re.compile(r"\d{31,}"),  # long digit runs
    re.compile(r"\^\s*\{?[^{}]*\^"),  # towers
    re.compile(r"\^\s*\{?\s*-?\d{4,}"),  # large powers
    re.compile(r"!"),  # factorials
    re.compile(r"__|import|lambda|eval|exec|open\("),  # code
)
_DEEPEST = 12


async def is_correct(answer: str, gold: str, *, symbolic: bool, timeout: float, workers: int) -> bool:
    """Whether ``answer`` equals ``gold``.

    An answer that is too long, too deep or costs more than ``timeout`` is wrong.

    Raises:
        RuntimeError: The verifier itself failed, which says nothing about the answer.
    """
    if answer.strip() == gold.strip():
        return True
    if len(answer) > LONGEST:
        return False
    given, wanted = normalised(answer), normalised(gold)
    if given == wanted:
        return True
    left, right = exact_number(given), exact_number(wanted)
    if left is not None and right is not None:
        return left == right
    if not symbolic or is_hazardous(answer):
        return False
    return await asyncio.to_thread(shared_pool(workers).equal, gold, answer, timeout)


def is_hazardous(answer: str) -> bool:
    """Whether an answer could make a computer algebra system work for long, before it gets near one."""
    depth = deepest = 0
    for character in answer:
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(character, 0)
        deepest = max(deepest, depth)
    return deepest > _DEEPEST or any(hazard.search(answer) for hazard in _HAZARDS)
