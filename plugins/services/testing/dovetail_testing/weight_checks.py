"""What every weight promises."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from dovetail.parts import Part
from dovetail.rollouts import Scores
from dovetail.runtime.evaluate import weigh


def checks(_: Part) -> dict[str, Callable[[Part], None]]:
    return {
        "scores stay finite, whatever their number and spread": _is_finite,
        "invalid rows stay invalid and change nothing for the others": _ignores_invalid,
        "it leaves its input as it is": _leaves_input,
        "it goes on where its state was saved": _resumes,
    }


def run(part: Part, scores: Tensor, step: int = 0, valid: Tensor | None = None) -> tuple[Scores, float]:
    """Weigh as a run does, with its checks, on a copy of the part's state."""
    status = torch.zeros(len(scores)) if valid is None else ~valid
    return weigh(Scores(scores, status.to(torch.uint8)), _copy(part), step)


def _copy(part: Part) -> Part:
    twin = copy.copy(part)
    twin.instance = copy.deepcopy(part.instance)
    return twin


def _scores(seed: int = 0) -> Tensor:
    return torch.randn(8, generator=torch.Generator().manual_seed(seed))


def _is_finite(part: Part) -> None:
    for scores in (_scores(), torch.zeros(4), torch.full((4,), 0.1), torch.ones(1), torch.empty(0), _scores() * 1e20):
        for step in (0, 1, 1_000_000):
            run(part, scores, step)


def _ignores_invalid(part: Part) -> None:
    valid = torch.tensor([True, False, True, True, False, True, True, True])
    counted, factor = run(part, torch.where(valid, _scores(), torch.nan), 3, valid)
    alone, same = run(part, _scores()[valid], 3)
    assert torch.equal(counted.valid, valid)
    assert torch.equal(counted.values[valid], alone.values)
    assert factor == same


def _leaves_input(part: Part) -> None:
    scores = _scores()
    run(part, scores)
    assert torch.equal(scores, _scores()), "the weight changed the scores that it was given"


def _resumes(part: Part) -> None:
    first = _copy(part)
    for step in range(3):
        weigh(Scores.ok(_scores(step)), first, step)
    second = _copy(part)
    if first.has("state_dict"):
        second.instance.load_state_dict(copy.deepcopy(first.instance.state_dict()))
    (one, factor), (other, same) = (weigh(Scores.ok(_scores(3)), each, 3) for each in (first, second))
    assert torch.equal(one.values, other.values)
    assert factor == same
