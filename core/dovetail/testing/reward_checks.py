"""What every reward promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from dovetail.parts import Part
from dovetail.rollouts import Rollouts, Scores
from dovetail.runtime.scoring import Offloader, PendingScores
from dovetail.testing.samples import tiny_rollouts

_CONTEXT = {"groups", "rollouts"}


def checks(
    part: Part, *, bounds: tuple[float, float] | None = None, rollouts: Rollouts | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Claims and functions; ``rollouts`` replaces the random ones, for rewards that need certain columns."""
    pristine = rollouts if rollouts is not None else tiny_rollouts()

    def sample() -> Rollouts:
        """A copy for each check, because a broken reward may change what it is given."""
        return pristine.select(range(len(pristine)))

    yield "it scores every sequence", lambda: _scores_all(part, sample())
    yield "the same input gives the same score", lambda: _is_deterministic(part, sample())
    yield "it leaves its input as it is", lambda: _leaves_input(part, sample())
    if not _CONTEXT & set(part.asks_for("score")):
        yield "a score does not depend on the rows beside it", lambda: _is_row_wise(part, sample())
    if bounds is not None:
        yield f"scores lie in [{bounds[0]:g}, {bounds[1]:g}]", lambda: _is_bounded(part, sample(), bounds)


def score(part: Part, rollouts: Rollouts) -> Scores:
    """Score as a run does, with its checks."""
    offloader = Offloader()
    try:
        return PendingScores(part, rollouts, offloader, timeout=60).result()
    finally:
        offloader.close()


def _scores_all(part: Part, rollouts: Rollouts) -> None:
    scores = score(part, rollouts)
    assert len(scores) == len(rollouts)
    assert bool(scores.valid.all()), f"invalid rows: {dict(scores.reasons)}"


def _is_deterministic(part: Part, rollouts: Rollouts) -> None:
    assert torch.equal(score(part, rollouts).values, score(part, rollouts).values)


def _leaves_input(part: Part, rollouts: Rollouts) -> None:
    before = rollouts.tokens.values.clone()
    score(part, rollouts)
    assert torch.equal(before, rollouts.tokens.values), "the reward changed the tokens"


def _is_row_wise(part: Part, rollouts: Rollouts) -> None:
    together = score(part, rollouts).values
    alone = torch.cat([score(part, rollouts.select([row])).values for row in range(len(rollouts))])
    assert torch.allclose(together, alone, atol=1e-6), f"together {together.tolist()}, alone {alone.tolist()}"
    back = torch.arange(len(rollouts) - 1, -1, -1)
    assert torch.allclose(score(part, rollouts.select(back)).values, together[back], atol=1e-6)


def _is_bounded(part: Part, rollouts: Rollouts, bounds: tuple[float, float]) -> None:
    for lengths in ((0, 1, 2, 3), (10, 30, 60, 64), (65, 100, 200, 500)):
        for sample in (
            (rollouts, tiny_rollouts(lengths=lengths)) if not part.asks_for("score").count("tasks") else (rollouts,)
        ):
            values = score(part, sample).values
            low, high = values.min().item(), values.max().item()
            assert bounds[0] <= low <= high <= bounds[1], f"scores reach from {low:g} to {high:g}"
