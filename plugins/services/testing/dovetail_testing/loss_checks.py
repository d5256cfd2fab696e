"""What every loss promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dovetail.graph.node import Node
from dovetail.graph.ops import part_op
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.rollouts import LossTerms, Rollouts
from dovetail.runtime.evaluate import loss_terms
from dovetail.runtime.packing import cut
from dovetail.runtime.reduce import StepCounts, reduce_terms
from dovetail_testing.samples import tiny_rollouts

_LIVE = ("logprobs", "values", "entropy")


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
    """Made-up values for every argument that a loss may ask for."""
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


def loss_and_gradients(
    part: Part, rollouts: Rollouts, given: Mapping[str, Ragged], budget: int = 1 << 40
) -> tuple[Tensor, dict[str, Ragged]]:
    """The loss of a batch and its gradients by the live inputs, cut by ``budget`` as a run cuts it."""
    alive = _alive(given)
    counts = StepCounts(rollouts.sampled.lengths, rollouts.groups)
    total = torch.zeros((), dtype=torch.float64)
    for rows in cut(rollouts.tokens.lengths, budget):
        share = reduce_terms(_terms(part, rollouts.select(rows), _select(alive, rows)), counts, rows)
        if share.requires_grad:
            share.backward()  # type: ignore[no-untyped-call]
        total = total + share.detach()
    return total, {name: alive[name].map(_gradient) for name in _LIVE}


def _alive(given: Mapping[str, Ragged]) -> dict[str, Ragged]:
    return {**given, **{name: given[name].map(lambda values: values.clone().requires_grad_()) for name in _LIVE}}


def _gradient(values: Tensor) -> Tensor:
    return torch.zeros_like(values) if values.grad is None else values.grad


def _terms(part: Part, rollouts: Rollouts, given: Mapping[str, Ragged]) -> LossTerms:
    asked = {name: given[name] for name in part.needs("loss_terms")}
    return loss_terms(Node("loss", part_op(part)), asked, rollouts)


def _select(given: Mapping[str, Ragged], rows: Sequence[int] | Tensor) -> dict[str, Ragged]:
    return {name: value.select(rows) for name, value in given.items()}


def _same(left: tuple[Tensor, dict[str, Ragged]], right: tuple[Tensor, dict[str, Ragged]]) -> None:
    assert torch.allclose(left[0], right[0], rtol=1e-9), f"loss {left[0].item()} against {right[0].item()}"
    for name, gradient in left[1].items():
        assert torch.allclose(gradient.values, right[1][name].values, rtol=1e-9, atol=1e-12), f"gradient by {name}"


def _is_cut_free(part: Part) -> None:
    rollouts = tiny_rollouts()
    given = inputs(rollouts)
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
    given = inputs(rollouts)
    loss, gradients = loss_and_gradients(part, rollouts, given)
    selected = loss_and_gradients(part, rollouts.select(rows), _select(given, rows))
    _same((loss, _select(gradients, rows)), selected)


def _is_finite(part: Part) -> None:
    rollouts = tiny_rollouts()
    for spread in (0.0, 3.0):
        loss, gradients = loss_and_gradients(part, rollouts, inputs(rollouts, spread=spread))
        assert bool(torch.isfinite(loss))
        for name, gradient in gradients.items():
            assert bool(torch.isfinite(gradient.values).all()), f"gradient by {name}"


def _metrics_are_detached(part: Part) -> None:
    rollouts = tiny_rollouts()
    for name, metric in _terms(part, rollouts, _alive(inputs(rollouts))).metrics.items():
        values = metric.values if isinstance(metric, Ragged) else metric
        assert not values.requires_grad, f"detach the metric {name!r}"
