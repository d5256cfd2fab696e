"""What every estimator promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dovetail.graph.node import Node
from dovetail.graph.ops import part_op
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.rollouts import Rollouts, Scores
from dovetail.runtime.evaluate import estimate
from dovetail_testing.samples import tiny_rollouts

Draw = Callable[[Rollouts], Tensor]


def checks(_: Part, *, negative: bool = True) -> dict[str, Callable[[Part], None]]:
    """``negative=False``: the estimator is for rewards from 0 on, and is given no others."""
    draw: Draw = _rewards if negative else lambda rollouts: _rewards(rollouts).abs()
    return {
        "it gives finite credit to every sampled token": partial(_is_finite, draw),
        "the order of the rows does not matter": partial(_is_equivariant, draw),
        "equal rewards and groups of one stay finite": _survives_no_spread,
        "invalid rows get 0 and change nothing for the others": partial(_ignores_invalid, draw),
    }


def run(part: Part, rollouts: Rollouts, rewards: Tensor, valid: Tensor | None = None) -> Ragged:
    """Estimate as a run does; values and log-probs are made up from the tokens."""
    made_up = rollouts.sampled.map(lambda tokens: (tokens.float() - 100) / 20)
    scores = Scores.ok(rewards) if valid is None else Scores(rewards, (~valid).to(torch.uint8))
    inputs: dict[str, Any] = {
        "rewards": scores,
        "reward_parts": {"first": scores, "second": scores.combine(0.5, lambda a, b: a * b)},
        "reward_weights": {"first": 1.0, "second": 0.3},
        "values": made_up,
        "final_values": made_up.mean(),
        "logprobs": made_up - 3.0,
        "ref_logprobs": made_up - 3.1,
    }
    node = Node("advantages", part_op(part))
    asked = {name: value for name, value in inputs.items() if name in part.asks_for("estimate")}
    result: Ragged = estimate(node, asked, rollouts)["out"]
    return result


def _rewards(rollouts: Rollouts) -> Tensor:
    return torch.randn(len(rollouts), generator=torch.Generator().manual_seed(1))


def _is_finite(draw: Draw, part: Part) -> None:
    rollouts = tiny_rollouts()
    credit = run(part, rollouts, draw(rollouts))
    assert torch.equal(credit.offsets, rollouts.sampled.offsets)
    assert bool(torch.isfinite(credit.values).all())


def _is_equivariant(draw: Draw, part: Part) -> None:
    rollouts = tiny_rollouts()
    rewards, order = draw(rollouts), torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(2))
    straight = run(part, rollouts, rewards).select(order)
    permuted = run(part, rollouts.select(order), rewards[order])
    assert torch.allclose(straight.values, permuted.values, atol=1e-5)


def _survives_no_spread(part: Part) -> None:
    for rollouts in (tiny_rollouts(), tiny_rollouts(group_size=1), tiny_rollouts(lengths=(4,), group_size=1)):
        credit = run(part, rollouts, torch.full((len(rollouts),), 0.7))
        assert bool(torch.isfinite(credit.values).all())


def _ignores_invalid(draw: Draw, part: Part) -> None:
    rollouts = tiny_rollouts()
    valid = torch.tensor([row not in (1, 4) for row in range(len(rollouts))])
    rewards = draw(rollouts)
    with_invalid = run(part, rollouts, rewards, valid)
    without = run(part, rollouts.select(valid), rewards[valid])
    assert torch.allclose(with_invalid.select(valid).values, without.values, atol=1e-6)
    assert not bool(with_invalid.select(~valid).values.any())
    nobody = run(part, rollouts, rewards, torch.zeros_like(valid))
    assert not bool(nobody.values.any())
