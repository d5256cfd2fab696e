"""What each operation does, apart from model calls: arithmetic, totals, estimators, losses, Python functions."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import PartError
from dovetail.graph.node import Node
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.rollouts import Advantages, LossTerms, Rollouts, Scores
from dovetail.runtime.scoring import facts_of

_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "rsub": lambda left, right: right - left,
    "rdiv": lambda left, right: right / left,
}


def is_arithmetic(node: Node) -> bool:
    return node.op.name in _ARITHMETIC


def arithmetic(node: Node, left: Any, right: Any) -> Any:
    """Combine scores, per-sequence tensors, per-token rows and numbers under the one broadcast rule."""
    operation = _ARITHMETIC[node.op.name]
    if isinstance(left, Scores):
        if isinstance(right, Ragged):
            return operation(right.spread(left.values), right)
        return left.combine(right, operation)
    if isinstance(right, Scores):
        return (
            operation(left, left.spread(right.values)) if isinstance(left, Ragged) else right.combine(left, operation)
        )
    if isinstance(left, Tensor) and left.ndim == 1 and isinstance(right, Ragged):
        left = right.spread(left)
    return operation(left, right)


def total(node: Node, scores: list[Scores]) -> dict[str, Any]:
    """The weighted total of rewards; valid where all of them are."""
    weights, labels = node.options["weights"], node.options["labels"]
    weighted = [score.combine(weight, operator.mul) for score, weight in zip(scores, weights, strict=True)]
    result = weighted[0]
    for score in weighted[1:]:
        result = result.combine(score, operator.add)
    return {
        "out": result,
        "parts": dict(zip(labels, scores, strict=True)),
        "weights": dict(zip(labels, weights, strict=True)),
    }


def estimate(node: Node, inputs: Mapping[str, Any], rollouts: Rollouts) -> dict[str, Any]:
    """Call an estimator on the valid rows; the others get advantage 0.

    Raises:
        PartError: What it returned has another length, or is not finite.
    """
    part = node.op.part
    assert part is not None
    rewards = inputs.get("rewards")
    valid = rewards.valid if isinstance(rewards, Scores) else torch.ones(len(rollouts), dtype=torch.bool)
    rows = valid.nonzero().squeeze(1)
    kept = rollouts if bool(valid.all()) else rollouts.select(rows)
    available = {port: _take(value, rows) for port, value in inputs.items()}
    asked = part.asks_for("estimate")
    available.update(facts_of(kept, [name for name in asked if name not in available and hasattr(kept, name)]))
    result = part.call("estimate", available)
    if not isinstance(result, Advantages):
        result = Advantages(result)
    shape = kept.sampled
    credit = _per_token(part, "advantages", result.advantages, shape)
    outputs: dict[str, Any] = {"out": _scatter(credit, rollouts.sampled, valid), "metrics": dict(result.metrics)}
    if result.returns is not None:
        outputs["returns"] = _scatter(_per_token(part, "returns", result.returns, shape), rollouts.sampled, valid)
    return outputs


def _take(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Scores):
        return value.values[rows]
    if isinstance(value, Ragged):
        return value.select(rows)
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, Mapping):
        return {name: _take(inner, rows) for name, inner in value.items()}
    return value


def _per_token(part: Part, what: str, value: Any, shape: Ragged) -> Ragged:
    if isinstance(value, Tensor) and value.ndim == 1 and len(value) == len(shape):
        value = shape.spread(value)
    if not isinstance(value, Ragged) or not torch.equal(value.offsets, shape.offsets):
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise part.error(
            f"{what} must be [{len(shape)}] or a Ragged over the {len(shape.values)} sampled tokens, got {got}"
        )
    if not bool(torch.isfinite(value.values).all()):
        row = int(value.row_ids[~torch.isfinite(value.values)][0])
        raise part.error(f"{what} of sequence {row} are not finite")
    return value.detach()


def _scatter(credit: Ragged, shape: Ragged, valid: Tensor) -> Ragged:
    full = credit.values.new_zeros(len(shape.values))
    full[valid[shape.row_ids]] = credit.values
    return shape.with_values(full)


def loss_terms(node: Node, inputs: Mapping[str, Any], rollouts: Rollouts) -> LossTerms:
    """Call a loss part on a micro-batch.

    Raises:
        PartError: It did not return LossTerms that fit, or a term is not finite.
    """
    part = node.op.part
    assert part is not None
    shape = rollouts.sampled
    available = {port: _spread(value, shape) for port, value in inputs.items()}
    if "sampled_logprobs" in part.needs("loss_terms") and "sampled_logprobs" not in available:
        available["sampled_logprobs"] = rollouts.sampled_logprobs
    result = part.call("loss_terms", {name: available.get(name) for name in part.asks_for("loss_terms")})
    check_terms(part, result, shape)
    return result  # type: ignore[no-any-return]


def _spread(value: Any, shape: Ragged) -> Any:
    if isinstance(value, Scores):
        value = value.values
    return shape.spread(value) if isinstance(value, Tensor) and value.ndim == 1 else value


def check_terms(part: Part | None, result: Any, shape: Ragged) -> None:
    """Check what a loss returned.

    Raises:
        PartError: See :func:`loss_terms`.
    """
    error = part.error if part else lambda problem, **_: PartError(f"a loss {problem}")
    if not isinstance(result, LossTerms):
        raise error(f"returned {type(result).__name__}", hint="return dovetail.LossTerms(terms, reduction)")
    terms = result.terms
    per_token = isinstance(terms, Ragged) and torch.equal(terms.offsets, shape.offsets)
    if not per_token and not (isinstance(terms, Tensor) and list(terms.shape) == [len(shape)]):
        raise error(f"returned terms that are neither a Ragged over {len(shape.values)} tokens nor [{len(shape)}]")
    if isinstance(terms, Tensor) and result.reduction != "batch_mean":
        raise error(f"returned [B] terms with the reduction {result.reduction!r}", hint="use batch_mean")
    values = terms.values if isinstance(terms, Ragged) else terms
    if not bool(torch.isfinite(values).all()):
        raise error("returned a term that is not finite")


def call_function(node: Node, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Call an ``@dt.op`` function; a parameter annotated as Tensor is given plain values for scores."""
    return read_outputs(node, start_function(node, inputs), inputs)


def start_function(node: Node, inputs: Mapping[str, Any]) -> Any:
    """What the function returns: its result, or the coroutine of an async one."""
    function = node.op.function
    assert function is not None
    parameters = inspect.signature(function).parameters
    given = {port: _as_annotated(parameters[port].annotation, value) for port, value in inputs.items()}
    return function(**given, **node.options)


def read_outputs(node: Node, result: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by port; a tensor made of scores carries their validity on.

    Raises:
        PartError: A named output is missing.
    """
    named = result if isinstance(result, dict) and "out" not in node.op.outputs else {node.output: result}
    missing = [port for port in node.op.outputs if port not in named]
    if missing:
        where = node.where("made")
        raise PartError(f"op {node.op.label!r} did not return its output {missing[0]!r}", where=where)
    scores = [value for value in inputs.values() if isinstance(value, Scores)]
    return {port: _carry_validity(value, scores) for port, value in named.items()}


def _carry_validity(value: Any, scores: list[Scores]) -> Any:
    if not scores or not isinstance(value, Tensor) or list(value.shape) != [len(scores[0])]:
        return value
    result = Scores.ok(value)
    for score in scores:
        result = score.combine(result, lambda _, computed: computed)
    return result


def _as_annotated(annotation: Any, value: Any) -> Any:
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return value.values if isinstance(value, Scores) and name.rpartition(".")[2] == "Tensor" else value
