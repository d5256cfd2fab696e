"""What every loss promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dovetail.graph.node import Node
from dovetail.graph.ops import part_op
from dovetail.parts import Part
from dovetail.ragged import Ragged, row_index
from dovetail.rollouts import LossTerms, Rollouts
from dovetail.runtime.evaluate import loss_terms, take
from dovetail.runtime.packing import micro_batches
from dovetail.runtime.reduce import StepCounts, reduce_terms
from dovetail_testing.samples import tiny_rollouts

_LIVE = ("logprobs", "values", "entropy", "final_values")
Given = Mapping[str, Ragged | Tensor]


def checks(_: Part) -> dict[str, Callable[[Part], None]]:
    return {
        "loss and gradient do not depend on how the batch is cut": _is_cut_free,
        "loss and gradient do not depend on the order of the rows": _is_order_free,
        "rows that do not count change nothing, whatever they hold": _ignores_uncounted,
        "the gradient is finite on policy and far off it": _is_finite,
        "metrics carry no gradient": _metrics_are_detached,
    }


def inputs(
    rollouts: Rollouts, seed: int = 0, spread: float = 0.3, dtype: torch.dtype = torch.float64
) -> dict[str, Ragged]:
    """Made-up values for every argument that a loss may ask for, and that has one for each token."""
    generator = torch.Generator().manual_seed(seed)
    shape = rollouts.sampled

    def noise(scale: float, shift: float = 0.0) -> Ragged:
        values = torch.randn(len(shape.values), generator=generator, dtype=torch.float64) * scale + shift
        return shape.with_values(values.to(dtype))

    old = noise(0.5, -2.0)
    return {
        "advantages": noise(1.0),
        "logprobs": old + noise(spread),
        "old_logprobs": old,
        "ref_logprobs": old + noise(spread),
        "sampled_logprobs": old + noise(spread / 10),
        "values": noise(1.0),
        "old_values": noise(1.0),
        "returns": noise(1.0),
        "entropy": noise(0.2, 1.5),
        "rewards": noise(1.0),
    }


def row_inputs(rollouts: Rollouts, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Made-up values ``[B]`` for the arguments that have one for each sequence."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, len(rollouts), generator=generator, dtype=torch.float64).to(dtype)
    return {"final_values": rows[0], "baselines": rows[1]}


def _every_input(rollouts: Rollouts, spread: float = 0.3) -> dict[str, Any]:
    return {**inputs(rollouts, spread=spread), **row_inputs(rollouts)}


def loss_and_gradients(
    part: Part, rollouts: Rollouts, given: Given, budget: int = 1 << 40
) -> tuple[Tensor, dict[str, Any]]:
    """The loss of a batch and its gradients by the live inputs, cut by ``budget`` as a run cuts it."""
    alive = _alive(given)
    counts = StepCounts(rollouts.sampled.lengths, rollouts.groups)
    total = torch.zeros((), dtype=torch.float64)
    for batch in micro_batches(rollouts, budget, None, by_group="groups" in part.needs("loss_terms")):
        rows = batch.rows
        share = reduce_terms(_terms(part, rollouts.select(rows), _select(alive, rows)), counts, rows)
        if share.requires_grad:
            share.backward()  # type: ignore[no-untyped-call]
        total = total + share.detach()
    return total, {name: _map(alive[name], _gradient) for name in _LIVE if name in alive}


def pushes_by_advantage(part: Part) -> None:
    """Assert that a policy loss at ``logprobs = old_logprobs`` has REINFORCE's gradient, ``-advantage`` times the weight
    that its reduction gives a token."""
    rollouts = tiny_rollouts()
    given = inputs(rollouts)
    credit = rollouts.sampled.spread(given["advantages"].mean())
    on_policy = {**given, "advantages": credit, "logprobs": given["old_logprobs"]}
    weights = StepCounts(rollouts.sampled.lengths, rollouts.groups).row_weights(part.instance.reduction, None)
    found = loss_and_gradients(part, rollouts, on_policy)[1]["logprobs"]
    torch.testing.assert_close(found.values, -(credit * credit.spread(weights)).values)


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return value.map(function) if isinstance(value, Ragged) else function(value)


def _flat(value: Any) -> Tensor:
    return value.values if isinstance(value, Ragged) else value


def _leaf(values: Tensor) -> Tensor:
    return values.clone().requires_grad_()


def _alive(given: Given) -> dict[str, Any]:
    return {**given, **{name: _map(given[name], _leaf) for name in _LIVE if name in given}}


def _gradient(values: Tensor) -> Tensor:
    return torch.zeros_like(values) if values.grad is None else values.grad


def _terms(part: Part, rollouts: Rollouts, given: Given) -> LossTerms:
    asked = {name: given[name] for name in part.needs("loss_terms") if name in given}
    return loss_terms(Node("loss", part_op(part)), asked, rollouts)


def _select(given: Given, rows: Sequence[int] | Tensor) -> dict[str, Any]:
    return {name: take(value, row_index(rows, len(value))) for name, value in given.items()}


def _same(left: tuple[Tensor, dict[str, Any]], right: tuple[Tensor, dict[str, Any]]) -> None:
    assert torch.allclose(left[0], right[0], rtol=1e-9), f"loss {left[0].item()} against {right[0].item()}"
    for name, gradient in left[1].items():
        assert torch.allclose(_flat(gradient), _flat(right[1][name]), rtol=1e-9, atol=1e-12), f"gradient by {name}"


def _is_cut_free(part: Part) -> None:
    rollouts = tiny_rollouts()
    given = _every_input(rollouts)
    whole = loss_and_gradients(part, rollouts, given)
    for budget in (1, 20, 50, 100):
        _same(whole, loss_and_gradients(part, rollouts, given, budget))


def _is_order_free(part: Part) -> None:
    rollouts = tiny_rollouts()
    _survives_selection(part, rollouts, torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(3)))


def _ignores_uncounted(part: Part) -> None:
    """A row without sampled tokens counts in no denominator."""
    _survives_selection(part, tiny_rollouts(lengths=(5, 3, 2, 0), group_size=2), [0, 1, 2])


def _survives_selection(part: Part, rollouts: Rollouts, rows: Sequence[int] | Tensor) -> None:
    given = _every_input(rollouts)
    loss, gradients = loss_and_gradients(part, rollouts, given)
    selected = loss_and_gradients(part, rollouts.select(rows), _select(given, rows))
    _same((loss, _select(gradients, rows)), selected)


def _is_finite(part: Part) -> None:
    rollouts = tiny_rollouts()
    for spread in (0.0, 3.0):
        loss, gradients = loss_and_gradients(part, rollouts, _every_input(rollouts, spread))
        assert bool(torch.isfinite(loss))
        for name, gradient in gradients.items():
            assert bool(torch.isfinite(_flat(gradient)).all()), f"gradient by {name}"


def _metrics_are_detached(part: Part) -> None:
    rollouts = tiny_rollouts()
    for name, metric in _terms(part, rollouts, _alive(_every_input(rollouts))).metrics.items():
        assert not _flat(metric).requires_grad, f"detach the metric {name!r}"
