"""What every loss promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dovetail.graph.node import Node
from dovetail.graph.ops import part_op
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.rollouts import Rollouts
from dovetail.runtime.evaluate import loss_terms
from dovetail.runtime.microbatch import cut
from dovetail.runtime.reduce import StepCounts, reduce_terms
from dovetail.testing.samples import tiny_rollouts

_LIVE = ("logprobs", "values", "entropy")


def checks(part: Part) -> Iterator[tuple[str, Callable[[], None]]]:
    """Claims and functions."""
    yield "loss and gradient do not depend on how the batch is cut", lambda: _is_cut_free(part)
    yield "loss and gradient do not depend on the order of the rows", lambda: _is_order_free(part)
    yield "rows that do not count change nothing, whatever they hold", lambda: _ignores_uncounted(part)
    yield "the gradient is finite on policy and far off it", lambda: _is_finite(part)
    yield "metrics carry no gradient", lambda: _metrics_are_detached(part)


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
    part: Part, rollouts: Rollouts, given: dict[str, Ragged], budget: int | None = None
) -> tuple[Tensor, dict[str, Ragged]]:
    """The loss of a batch and its gradients by the live inputs, cut by ``budget`` as a run cuts it."""
    live = {n: v.with_values(v.values.detach().clone().requires_grad_()) for n, v in given.items() if n in _LIVE}
    everything = {**given, **live}
    counts = StepCounts(rollouts.sampled.lengths, rollouts.groups)
    node = Node("loss", part_op(part))
    asked = part.needs("loss_terms")
    total = torch.zeros((), dtype=torch.float64)
    for rows in cut(rollouts.tokens.lengths, budget or 1 << 40):
        chosen = {name: everything[name].select(rows) for name in asked}
        terms = loss_terms(node, chosen, rollouts.select(rows))
        share = reduce_terms(terms, counts, rows)
        if share.requires_grad:
            share.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        total = total + share.detach()
    zero = {
        n: v.with_values(v.values.grad if v.values.grad is not None else torch.zeros_like(v.values))
        for n, v in live.items()
    }
    return total, zero


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
    given = inputs(rollouts)
    order = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(3))
    loss, gradients = loss_and_gradients(part, rollouts, given)
    permuted = loss_and_gradients(part, rollouts.select(order), {n: v.select(order) for n, v in given.items()})
    _same((loss, {name: gradient.select(order) for name, gradient in gradients.items()}), permuted)


def _ignores_uncounted(part: Part) -> None:
    """A row without sampled tokens counts in no denominator."""
    rollouts = tiny_rollouts(lengths=(5, 3, 2, 0), group_size=2)
    given = inputs(rollouts)
    kept = [0, 1, 2]
    loss, gradients = loss_and_gradients(part, rollouts, given)
    without = loss_and_gradients(part, rollouts.select(kept), {n: v.select(kept) for n, v in given.items()})
    _same((loss, {name: gradient.select(kept) for name, gradient in gradients.items()}), without)


def _is_finite(part: Part) -> None:
    rollouts = tiny_rollouts()
    for spread in (0.0, 3.0):
        loss, gradients = loss_and_gradients(part, rollouts, inputs(rollouts, spread=spread))
        assert bool(torch.isfinite(loss))
        for name, gradient in gradients.items():
            assert bool(torch.isfinite(gradient.values).all()), f"gradient by {name}"


def _metrics_are_detached(part: Part) -> None:
    rollouts = tiny_rollouts()
    given: dict[str, Any] = {
        n: v.with_values(v.values.clone().requires_grad_(n in _LIVE)) for n, v in inputs(rollouts).items()
    }
    terms = loss_terms(Node("loss", part_op(part)), {n: given[n] for n in part.needs("loss_terms")}, rollouts)
    for name, metric in terms.metrics.items():
        values = metric.values if isinstance(metric, Ragged) else metric
        assert not values.requires_grad, f"detach the metric {name!r}"
