"""What each operation does, apart from model calls: arithmetic, totals, estimators, losses, Python functions."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.errors import PartError
from dovetail.graph.node import Node
from dovetail.graph.types import SCALAR
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.rollouts import Advantages, LossTerms, Rollouts, Scores

Outputs = dict[str, Any]

_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "rsub": lambda left, right: right - left,
    "rdiv": lambda left, right: right / left,
}


def broken(node: Node, problem: str, hint: str = "") -> PartError:
    """The error of a node whose part or function did not do what it must."""
    if node.op.part:
        return node.op.part.error(problem, hint=hint)
    return PartError(f"op {node.op.label!r} {problem}", where=node.where("made"), hint=hint)


def take(value: Any, rows: Tensor, device: Any = "cpu") -> Any:
    """Rows, by index or mask, of whatever flows along an edge, on a device; scores become plain values."""
    if isinstance(value, Mapping):
        return {name: take(inner, rows, device) for name, inner in value.items()}
    if isinstance(value, Rollouts | Ragged):
        return value.select(rows).to(device)
    if isinstance(value, Scores):
        value = value.values
    return value[rows].to(device) if isinstance(value, Tensor) and value.ndim else value


def _spread(value: Any, shape: Ragged) -> Any:
    """The one broadcast rule: a value for each sequence counts for each of its tokens."""
    if isinstance(value, Scores):
        value = value.values
    return shape.spread(value) if isinstance(value, Tensor) and value.ndim == 1 else value


def arithmetic(node: Node, inputs: Mapping[str, Any]) -> Outputs:
    """Combine scores, per-sequence tensors, per-token rows and numbers."""
    operation, left = _ARITHMETIC[node.op.name], inputs["left"]
    right = inputs.get("right", node.options.get("number"))
    shape = next((side for side in (left, right) if isinstance(side, Ragged)), None)
    if shape is not None:
        return {"out": operation(_spread(left, shape), _spread(right, shape))}
    if isinstance(left, Scores):
        return {"out": left.combine(right, operation)}
    if isinstance(right, Scores):
        return {"out": right.combine(left, lambda mine, theirs: operation(theirs, mine))}
    return {"out": operation(left, right)}


def total(node: Node, inputs: Mapping[str, Scores], step: int) -> Outputs:
    """The weighted total of rewards; valid where all of them are."""
    given = zip(node.options["labels"], inputs.values(), node.options["weights"], strict=True)
    weighed = {label: weigh(score, weight, step) for label, score, weight in given}
    products = [score.combine(weight, operator.mul) for score, weight in weighed.values()]
    return {
        "out": functools.reduce(lambda left, right: left.combine(right, operator.add), products),
        "parts": {label: score for label, (score, _) in weighed.items()},
        "weights": {label: weight for label, (_, weight) in weighed.items()},
    }


def weigh(scores: Scores, weight: float | Part, step: int) -> tuple[Scores, float]:
    """The scores that count, and what they are multiplied by."""
    if not isinstance(weight, Part):
        return scores, weight
    given = scores.values[scores.valid]
    counted, factor = weight.call("weigh", {"scores": given, "step": step})
    if counted.shape != given.shape or not bool(torch.isfinite(counted).all()) or not math.isfinite(factor):
        problem = f"gave {tuple(counted.shape)} scores and the weight {factor!r} for {len(given)} scores"
        raise weight.error(problem, hint=f"return {len(given)} finite scores and a finite weight")
    return attrs.evolve(scores, values=scores.values.masked_scatter(scores.valid, counted.float())), factor


def estimate(node: Node, inputs: Mapping[str, Any], rollouts: Rollouts) -> Outputs:
    """Call an estimator on the valid rows, and check what it returned; the other rows get advantage 0."""
    part, rewards = node.op.part, inputs.get("rewards")
    assert part is not None
    valid = rewards.valid if isinstance(rewards, Scores) else torch.ones(len(rollouts), dtype=torch.bool)
    kept = take(rollouts, valid)
    facts = {name: getattr(kept, name) for name in part.asks_for("estimate") if name not in node.op.inputs}
    result = part.call("estimate", {**facts, **take(inputs, valid)})
    if not isinstance(result, Advantages):
        result = Advantages(result)

    def over_all_rows(what: str, value: Any) -> Ragged:
        credit = _per_token(node, what, value, kept.sampled)
        full = credit.values.new_zeros(len(rollouts.sampled.values))
        full[valid[rollouts.sampled.row_ids]] = credit.values.detach()
        return rollouts.sampled.with_values(full)

    returns = {} if result.returns is None else {"returns": over_all_rows("returns", result.returns)}
    return {"out": over_all_rows("advantages", result.advantages), **returns, "metrics": dict(result.metrics)}


def _per_token(node: Node, what: str, value: Any, shape: Ragged) -> Ragged:
    """What a part gave for each sequence or sampled token, spread over the tokens; refused if it is not finite."""
    if isinstance(value, Tensor) and list(value.shape) == [len(shape)]:
        value = shape.spread(value)
    if not isinstance(value, Ragged) or not torch.equal(value.offsets, shape.offsets):
        wanted = f"[{len(shape)}] or a Ragged over the {len(shape.values)} sampled tokens"
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise broken(node, f"{what} must be {wanted}, got {got}")
    finite = torch.isfinite(value.values)
    if not bool(finite.all()):
        raise broken(node, f"{what} of sequence {int(value.row_ids[~finite][0])} are not finite")
    return value


def loss_terms(node: Node, inputs: Mapping[str, Any], rollouts: Rollouts) -> LossTerms:
    """Call a loss part on a micro-batch, and check what it returned."""
    part, shape = node.op.part, rollouts.sampled
    assert part is not None
    facts = {name: getattr(rollouts, name, None) for name in part.asks_for("loss_terms")}
    per_row = {port for port, kind in node.op.inputs.items() if kind == SCALAR}
    wired = {port: value if port in per_row else _spread(value, shape) for port, value in inputs.items()}
    return check_terms(node, part.call("loss_terms", facts | wired), shape)


def check_terms(node: Node, result: Any, shape: Ragged) -> LossTerms:
    """Refuse what are no finite terms over the sampled tokens or rows of ``shape``."""
    if not isinstance(result, LossTerms):
        raise broken(node, f"returned {type(result).__name__}", "return dovetail.LossTerms(terms, reduction)")
    _per_token(node, "terms", result.terms, shape)
    if isinstance(result.terms, Tensor) and result.reduction != "batch_mean":
        raise broken(node, f"returned [B] terms with the reduction {result.reduction!r}", "use batch_mean")
    return result


def start_function(node: Node, inputs: Mapping[str, Any]) -> Any:
    """Call an ``@dt.op`` function: its result, or the coroutine of an async one.

    Scores are given as plain values, unless the parameter is annotated as Scores.
    """
    assert node.op.function is not None
    plain = {p: v.values if isinstance(v, Scores) and node.op.inputs[p] != SCALAR else v for p, v in inputs.items()}
    return node.op.function(**plain, **node.options)


def read_outputs(node: Node, result: Any, inputs: Mapping[str, Any]) -> Outputs:
    """What a function returned, by port; a tensor made of scores carries their validity on."""
    outputs = dict(result) if isinstance(result, dict) and "out" not in node.op.outputs else {node.output: result}
    for port in node.op.outputs:
        if port not in outputs:
            raise broken(node, f"did not return its output {port!r}")
    given = [value for value in inputs.values() if isinstance(value, Scores)]
    for port, value in outputs.items():
        if given and isinstance(value, Tensor) and value.shape == given[0].values.shape:
            outputs[port] = functools.reduce(
                lambda made, s: s.combine(made, lambda _, own: own), given, Scores.ok(value)
            )
    return outputs
