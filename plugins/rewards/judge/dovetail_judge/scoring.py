"""From cases to rewards: each answer on its own, or against the others of its group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from dovetail import Invalid, Message
from dovetail_judge.prompts import ask_for_score, ask_for_verdict, read_score, read_verdict

if TYPE_CHECKING:
    from dovetail_judge import Judge
    from dovetail_judge.desk import Desk


@attrs.frozen
class Case:
    """An answer, what came before it, and the reference if there is one."""

    conversation: tuple[Message, ...]
    answer: str
    reference: Any = None


async def pointwise(options: Judge, desk: Desk, cases: Sequence[Case]) -> list[float | Invalid]:
    """A score for each case."""
    scale = {"low": options.low, "high": options.high}
    prompts = [ask_for_score(c.conversation, c.answer, c.reference, rubric=options.rubric, **scale) for c in cases]
    return await desk.judge(prompts, partial(read_score, **scale))


async def pairwise(options: Judge, desk: Desk, cases: Sequence[Case], groups: Sequence[int]) -> list[float | Invalid]:
    """The share of its comparisons that each case wins; invalid if half of them or more have failed."""
    pairs = [pair for rows in _by_group(groups) for pair in _pairs(rows, options.opponents)]
    prompts = []
    for first, second in pairs:
        a, b = cases[first], cases[second]
        if a.answer != b.answer:
            for one, other in ((a, b), (b, a)):
                prompts.append(
                    ask_for_verdict(a.conversation, one.answer, other.answer, a.reference, rubric=options.rubric)
                )
    verdicts = iter(await desk.judge(prompts, read_verdict))
    points: defaultdict[int, list[float]] = defaultdict(list)
    failures: defaultdict[int, list[Invalid]] = defaultdict(list)
    for first, second in pairs:
        same = cases[first].answer == cases[second].answer
        outcome = 0.5 if same else _agreed(next(verdicts), next(verdicts))
        if isinstance(outcome, Invalid):
            failures[first].append(outcome)
            failures[second].append(outcome)
        else:
            points[first].append(outcome)
            points[second].append(1 - outcome)
    return [_mean(points[row], failures[row]) for row in range(len(cases))]


def _by_group(groups: Sequence[int]) -> list[list[int]]:
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    return list(rows.values())


def _pairs(rows: Sequence[int], opponents: int | None) -> list[tuple[int, int]]:
    """Each row against the next ``opponents`` in a circle, or all; no pair twice."""
    reach = len(rows) - 1 if opponents is None else min(opponents, len(rows) - 1)
    found = {
        tuple(sorted((place, (place + step) % len(rows)))): None
        for place in range(len(rows))
        for step in range(1, reach + 1)
    }
    return [(rows[first], rows[second]) for first, second in found]


def _agreed(shown_first: float | Invalid, shown_second: float | Invalid) -> float | Invalid:
    """What two judgements say of the same answer, once shown first, once second."""
    for judgement in (shown_first, shown_second):
        if isinstance(judgement, Invalid):
            return judgement
    wins = (shown_first, 1 - shown_second)
    return wins[0] if wins[0] == wins[1] else 0.5


def _mean(points: Sequence[float], failures: Sequence[Invalid]) -> float | Invalid:
    if not points and not failures:
        return Invalid("there is no other answer to compare it with: pairwise needs groups of two or more")
    if len(failures) >= len(points):
        return Invalid(f"{len(failures)} of {len(points) + len(failures)} comparisons failed: {failures[0].reason}")
    return sum(points) / len(points)
