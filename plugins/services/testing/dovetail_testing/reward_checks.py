"""What every reward promises."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import attrs
import torch

from dovetail.parts import Part
from dovetail.rollouts import Rollouts, Scores
from dovetail.runtime.scoring import Offloader, PendingScores
from dovetail_testing.samples import tiny_rollouts

_CONTEXT = {"groups", "rollouts"}


def checks(
    part: Part, *, bounds: tuple[float, float] | None = None, rollouts: Rollouts | None = None
) -> dict[str, Callable[[Part], None]]:
    """Claims and functions; ``rollouts`` replaces the random ones, for rewards that need certain columns."""
    promises: dict[str, Callable[..., None]] = {
        "it scores every sequence": _scores_all,
        "the same input gives the same score": _is_deterministic,
        "it leaves its input as it is": _leaves_input,
    }
    if not {"groups", "rollouts"}.intersection(part.asks_for("score")):
        promises["a score does not depend on the rows beside it"] = _is_row_wise
    if part.in_process:
        promises["a worker process gives the same scores"] = _is_same_in_process
    if bounds is not None:
        promises[f"scores lie in [{bounds[0]:g}, {bounds[1]:g}]"] = functools.partial(_is_bounded, bounds=bounds)
    sample = tiny_rollouts() if rollouts is None else rollouts
    return {claim: functools.partial(check, rollouts=_copy(sample)) for claim, check in promises.items()}


def _copy(rollouts: Rollouts) -> Rollouts:
    """Its own tokens for each check, because a broken reward may change what it is given."""
    return attrs.evolve(rollouts, tokens=rollouts.tokens.map(torch.clone))


def score(part: Part, rollouts: Rollouts, *, process: bool = False) -> Scores:
    """Score as a run does, with its checks; in a thread, because each call would start a process of its own."""
    with contextlib.closing(Offloader()) as offloader:
        return PendingScores(attrs.evolve(part, process=process), rollouts, offloader, timeout=60).result()


def _scores_all(part: Part, rollouts: Rollouts) -> None:
    scores = score(part, rollouts)
    assert len(scores) == len(rollouts)
    assert bool(scores.valid.all()), f"invalid rows: {dict(scores.reasons)}"


def _is_deterministic(part: Part, rollouts: Rollouts) -> None:
    assert torch.equal(score(part, rollouts).values, score(part, rollouts).values)


def _is_same_in_process(part: Part, rollouts: Rollouts) -> None:
    threaded, apart = score(part, rollouts), score(part, rollouts, process=True)
    assert torch.equal(threaded.status, apart.status), f"other rows are invalid: {dict(apart.reasons)}"
    assert torch.allclose(threaded.values, apart.values, equal_nan=True), f"{threaded.values} and {apart.values}"


def _leaves_input(part: Part, rollouts: Rollouts) -> None:
    before = rollouts.tokens.values.clone()
    score(part, rollouts)
    assert torch.equal(before, rollouts.tokens.values), "the reward changed the tokens"


def _is_row_wise(part: Part, rollouts: Rollouts) -> None:
    together = score(part, rollouts).values
    alone = torch.cat([score(part, rollouts.select([row])).values for row in range(len(rollouts))])
    assert torch.allclose(together, alone, atol=1e-6), f"together {together.tolist()}, alone {alone.tolist()}"
    back = score(part, rollouts.select(range(len(rollouts) - 1, -1, -1))).values
    assert torch.allclose(back, together.flip(0), atol=1e-6), "the order of the rows matters"


def _is_bounded(part: Part, rollouts: Rollouts, bounds: tuple[float, float]) -> None:
    samples = [rollouts]
    if "tasks" not in part.asks_for("score"):
        samples += [tiny_rollouts(lengths=lengths) for lengths in ((0, 1, 2, 3), (10, 30, 60, 64), (65, 100, 200, 500))]
    for sample in samples:
        values = score(part, sample).values
        low, high = values.min().item(), values.max().item()
        assert bounds[0] <= low <= high <= bounds[1], f"scores reach from {low:g} to {high:g}"
