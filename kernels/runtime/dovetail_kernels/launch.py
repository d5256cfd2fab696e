"""From calls to one launch: what is given is checked by name, a back end is chosen, the results are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.ragged import Ragged
from dovetail_kernels.backends import choose
from dovetail_kernels.kernel import Call
from dovetail_kernels.program import DTYPES, Program, check_rows, launch_op
from dovetail_kernels.source import KernelError, Parameter


@attrs.frozen(eq=False)
class Launched:
    """What came of a launch."""

    parts: Tensor  #: ``[K, B]`` float32, the score of each call; 0 for one that gives none
    total: Tensor  #: ``[B]`` float32, their weighted sum
    results: tuple[Any, ...]  #: of each call, as its reference would give it


def launch(calls: Sequence[Call], weights: Sequence[float] | None = None) -> Launched:
    """Run kernels over the same rows at once.

    Raises:
        KernelError: An argument has another dtype, device or shape than the row function reads, or token ids are
            negative or beyond the vocabulary.
        UserError: The back end that ``DOVETAIL_KERNELS`` demands is not to be had.
    """
    weights = [1.0] * len(calls) if weights is None else weights
    program = Program.of(tuple(call.kernel for call in calls))
    rows = _rows(calls)
    if _wants_gradient(rows) or choose(program, rows.values.device) == "reference":
        return _referred(calls, rows, weights)
    memo: dict[int, Tensor] = {}
    tensors, numbers = [], []
    for call in calls:
        for parameter in call.kernel.source.parameters:
            if parameter.role == "number":
                numbers.append(float(call.value(parameter.name)))
            elif parameter.role != "out":
                tensors.append(_tensor(call, parameter, rows, memo))
    weighing = torch.tensor(weights, dtype=torch.float32, device=rows.values.device)
    parts, total, *written = launch_op()(program.name, rows.offsets, tensors, numbers, weighing)
    outputs = iter(written)
    results = []
    for call, score in zip(calls, parts, strict=True):
        own = [rows.with_values(next(outputs)) for _ in call.kernel.source.having("out")]
        given = [*([score] if call.kernel.source.scores else []), *own]
        results.append(given[0] if len(given) == 1 else tuple(given))
    return Launched(parts, total, tuple(results))


def _rows(calls: Sequence[Call]) -> Ragged:
    """The rows that all calls share."""
    found: Ragged | None = None
    for call in calls:
        if not call.kernel.source.having("row"):
            raise KernelError(f"the row function {call.kernel.name!r} reads no rows", where=[str(call.kernel.path)])
        for parameter in call.kernel.source.having("row"):
            value = call.value(parameter.name)
            if not isinstance(value, Ragged):
                raise _wrong(call, parameter, f"must be a Ragged, got {type(value).__name__}")
            if found is None:
                found = value
            elif value.offsets is not found.offsets and not torch.equal(value.offsets, found.offsets):
                raise _wrong(call, parameter, "has other rows than the kernel's first argument")
    assert found is not None
    return found


def _tensor(call: Call, parameter: Parameter, rows: Ragged, memo: dict[int, Tensor]) -> Tensor:
    """What a pointer points to, checked; what several kernels read is made ready once."""
    value = call.value(parameter.name)
    given = value.values if isinstance(value, Ragged) else value
    if not isinstance(given, Tensor):
        raise _wrong(call, parameter, f"must be a tensor, got {type(given).__name__}")
    if parameter.role == "table":
        given = given.to(rows.values.device)
    if given.device != rows.values.device:
        raise _wrong(call, parameter, f"is on {given.device}, and the rows on {rows.values.device}")
    if id(given) not in memo:
        memo[id(given)] = _ready(call, parameter, given)
    if memo[id(given)].dtype != DTYPES[parameter.ctype]:
        raise _wrong(call, parameter, f"must be {DTYPES[parameter.ctype]}, got {given.dtype}")
    if parameter.role == "row" and (given.ndim != 1):
        raise _wrong(call, parameter, f"must hold a number for each token, got shape {list(given.shape)}")
    return memo[id(given)]


def _ready(call: Call, parameter: Parameter, given: Tensor) -> Tensor:
    if given.dtype == torch.bool:
        given = given.to(torch.uint8)
    if parameter.role == "row" and parameter.ctype == "int" and not given.is_floating_point():
        _check_ids(call, parameter, given)
        given = given.to(torch.int32)
    return given.detach().contiguous()


def _check_ids(call: Call, parameter: Parameter, ids: Tensor) -> None:
    """Whole numbers per token are token ids."""
    if not ids.numel() or not _is_real(ids):
        return
    low, high = (int(bound) for bound in ids.aminmax())
    limit = getattr(call.owner, "vocabulary", None) or 2**31
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise _wrong(call, parameter, f"holds {bad}, which is no token id from 0 to {limit - 1}")


def _is_real(tensor: Tensor) -> bool:
    """Not traced, and not under capture: its values can be looked at."""
    from torch._subclasses import FakeTensor

    capturing = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return not isinstance(tensor, FakeTensor) and not torch.compiler.is_compiling() and not capturing


def _wants_gradient(rows: Ragged) -> bool:
    return torch.is_grad_enabled() and rows.values.requires_grad


def _referred(calls: Sequence[Call], rows: Ragged, weights: Sequence[float]) -> Launched:
    if _is_real(rows.values):
        check_rows(rows.offsets, len(rows.values))
        for call in calls:
            for parameter in call.kernel.source.having("row"):
                _tensor(call, parameter, rows, {})
    results = tuple(call.refer() for call in calls)
    scores = []
    for call, result in zip(calls, results, strict=True):
        score = result[0] if isinstance(result, tuple) else result
        scores.append(score.float() if call.kernel.source.scores else score.new_zeros(len(rows)))
    parts = torch.stack(scores)
    return Launched(parts, torch.tensor(weights, device=parts.device) @ parts, results)


def _wrong(call: Call, parameter: Parameter, problem: str) -> KernelError:
    return KernelError(f"kernel {call.kernel.name!r}: {parameter.name} {problem}", where=[str(call.kernel.path)])
