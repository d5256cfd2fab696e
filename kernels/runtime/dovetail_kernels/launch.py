"""From calls to one launch: what is given is checked by name, a back end is chosen, the results are told apart."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.ragged import Ragged
from dovetail_kernels.backends import choose
from dovetail_kernels.cpu import narrow
from dovetail_kernels.kernel import Call, tables_of
from dovetail_kernels.program import DTYPES, Program, check_rows, launch_op, run
from dovetail_kernels.source import KernelError, Parameter


@attrs.frozen(eq=False)
class Launched:
    """What came of a launch, on the device of the rows."""

    parts: Tensor  #: ``[K, B]`` float32, the score of each call; undefined for one that gives none
    total: Tensor  #: ``[B]`` float32, their weighted sum
    results: tuple[Any, ...]  #: of each call, as its reference would give it


def launch(calls: Sequence[Call], weights: Sequence[float] | None = None, *, back_end: str | None = None) -> Launched:
    """Run kernels over the same rows at once.

    Where a gradient is wanted, torch computes it: row functions have none.

    Args:
        calls: What to run.
        weights: Of their scores in the total; 1 if they are not given.
        back_end: ``cuda``, ``cpu`` or ``reference``; None lets ``DOVETAIL_KERNELS`` and the machine decide.

    Raises:
        KernelError: An argument has another dtype, device or shape than the row function reads, or token ids are
            negative or beyond the vocabulary.
        UserError: The back end that is demanded is not to be had.
    """
    program = Program.of(tuple(call.kernel for call in calls))
    rows = rows_of(calls)
    home, real = rows.values.device, _is_real(rows.values)
    chosen = "reference" if _wants_gradient(calls) else choose(program, home, back_end)
    tensors, numbers = inputs_of(calls, rows, program if real and chosen == "cpu" else None)
    if chosen == "reference":
        if real:
            check_rows(rows.offsets, len(rows.values))
        return _referred(calls, rows, weights)
    device = torch.device("cuda") if chosen == "cuda" else home
    offsets, stays = rows.offsets, device == home  # to move what is there already costs time, too
    if not stays:
        tensors, offsets = [tensor.to(device) for tensor in tensors], offsets.to(device)
    # The operator is for what looks at programs: its first use costs a second, and each one some microseconds.
    launching = run if real else launch_op()
    weighing = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    outputs = launching(program.name, offsets.contiguous(), tensors, numbers, weighing)
    parts, total, *written = outputs if stays else [output.to(home) for output in outputs]
    per_token = iter(written)
    results = []
    for call, score in zip(calls, parts.unbind(), strict=True):
        source = call.kernel.source
        own = [rows.with_values(next(per_token)) for _ in source.written]
        given = [score, *own] if source.scores else own
        results.append(given[0] if len(given) == 1 else tuple(given))
    return Launched(parts, total, tuple(results))


def rows_of(calls: Sequence[Call]) -> Ragged:
    """The rows that all calls share."""
    found: Ragged | None = None
    for call in calls:
        if not call.kernel.source.rows:
            raise KernelError(f"the row function {call.kernel.name!r} reads no rows", where=[str(call.kernel.path)])
        for parameter in call.kernel.source.rows:
            value = call.value(parameter.name)
            if not isinstance(value, Ragged):
                raise _wrong(call, parameter, f"must be a Ragged, got {type(value).__name__}")
            if found is None:
                found = value
            elif value.offsets is not found.offsets and not torch.equal(value.offsets, found.offsets):
                raise _wrong(call, parameter, "has other rows than the first argument of the launch")
    assert found is not None
    return found


def inputs_of(calls: Sequence[Call], rows: Ragged, program: Program | None = None) -> tuple[list[Tensor], list[float]]:
    """What the row functions read, checked, in the order of their parameters: tensors, and numbers.

    Given a program that is built for the CPU, it converts token ids, which is faster than torch for few.
    """
    # What several kernels read is made ready once, if they have one vocabulary. What was given is kept, for its id's sake.
    ready: dict[tuple[int, str, int], tuple[Tensor, Tensor]] = {}
    tensors, numbers = [], []
    for call in calls:
        vocabulary, own = _vocabulary(call), _own_tables(call, rows) if program else {}
        for parameter in call.kernel.source.given:
            if parameter.name in own:
                tensors.append(own[parameter.name])
                continue
            value = call.value(parameter.name)
            if parameter.role == "number":
                numbers.append(_number(call, parameter, value))
                continue
            given = value.values if isinstance(value, Ragged) else value
            if not isinstance(given, Tensor):
                raise _wrong(call, parameter, f"must be a tensor, got {type(given).__name__}")
            key = id(given), parameter.role, vocabulary
            if key not in ready:
                ready[key] = given, _ready(call, parameter, given, rows, program)
            tensors.append(_typed(call, parameter, ready[key][1]))
    return tensors, numbers


def _own_tables(call: Call, rows: Ragged) -> Mapping[str, Tensor]:
    """The part's tables on the CPU by name: looked at once, because a small launch is over before a look at all of them."""
    tables = tables_of(call.owner)
    if tables and call.kernel not in tables.ready:
        asked = [p for p in call.kernel.source.given if p.name in tables and isinstance(tables[p.name], Tensor)]
        tables.ready[call.kernel] = {
            parameter.name: _typed(call, parameter, _ready(call, parameter, tables[parameter.name], rows, None))
            for parameter in asked
            if parameter.role == "table"
            and parameter.name not in call.given
            and not hasattr(call.owner, parameter.name)
        }
    return tables.ready.get(call.kernel, {})


def _typed(call: Call, parameter: Parameter, made: Tensor) -> Tensor:
    if made.dtype != DTYPES[parameter.ctype]:
        raise _wrong(call, parameter, f"must be {DTYPES[parameter.ctype]}, got {made.dtype}")
    return made


def _number(call: Call, parameter: Parameter, value: Any) -> float:
    """An option as the row function is told it: nothing is cut off from one that does not fit."""
    if parameter.ctype == "int" and not (-(2**31) <= value < 2**31 and int(value) == value):
        raise _wrong(call, parameter, f"must be a whole number of 32 bits, got {value!r}")
    return float(value)


def _ready(call: Call, parameter: Parameter, given: Tensor, rows: Ragged, program: Program | None) -> Tensor:
    """A tensor as row functions read it: 32-bit whole numbers, bytes for bools, without gaps."""
    home = rows.values.device
    if (
        parameter.role == "table"
        and given.dtype == DTYPES[parameter.ctype]
        and given.device == home
        and given.is_contiguous()
        and not given.requires_grad
    ):
        return given  # as most tables are, of which a kernel may have many
    if parameter.role == "table" and parameter.name not in call.given:
        given = given.to(home)
    if given.device != home:
        raise _wrong(call, parameter, f"is on {given.device}, and the rows on {home}")
    if parameter.role == "row" and given.ndim != 1:
        raise _wrong(call, parameter, f"must hold a number for each token, got shape {list(given.shape)}")
    if given.requires_grad:
        given = given.detach()
    given = given.contiguous()
    if given.dtype == torch.bool:
        return given.to(torch.uint8)
    if given.dtype == torch.int64 and parameter.ctype == "int":
        if program and parameter.role == "row" and (found := narrow(program, given, _vocabulary(call))) is not None:
            return found
        _check_whole(call, parameter, given)
        return given.to(torch.int32)
    if parameter.role == "row" and given.dtype == torch.int32:
        _check_whole(call, parameter, given)
    return given


def _vocabulary(call: Call) -> int:
    """Token ids are below it."""
    return getattr(call.owner, "vocabulary", None) or 2**31


def _check_whole(call: Call, parameter: Parameter, given: Tensor) -> None:
    """Whole numbers per token are token ids; those of tables must fit 32 bits."""
    if not given.numel() or not _is_real(given):
        return
    low, high = (int(bound) for bound in given.aminmax())
    if parameter.role == "table":
        if low < -(2**31) or high >= 2**31:
            raise _wrong(call, parameter, f"holds {low if low < -(2**31) else high}, which does not fit 32 bits")
        return
    limit = _vocabulary(call)
    if low < 0 or high >= limit:
        raise _wrong(call, parameter, f"holds {low if low < 0 else high}, which is no token id from 0 to {limit - 1}")


def _is_real(tensor: Tensor) -> bool:
    """Its values can be looked at: it is not traced, and not under capture, when nothing may wait for the device."""
    fakes = sys.modules.get("torch._subclasses.fake_tensor")  # it is large, and whoever fakes has loaded it
    is_fake = fakes is not None and isinstance(tensor, fakes.FakeTensor)
    capturing = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return not is_fake and not torch.compiler.is_compiling() and not capturing


def _wants_gradient(calls: Sequence[Call]) -> bool:
    if not torch.is_grad_enabled():
        return False
    given = (value.values if isinstance(value, Ragged) else value for call in calls for value in call.given.values())
    return any(isinstance(value, Tensor) and value.requires_grad for value in given)


def _referred(calls: Sequence[Call], rows: Ragged, weights: Sequence[float] | None) -> Launched:
    results = tuple(call.refer() for call in calls)
    firsts = [result[0] if isinstance(result, tuple) else result for result in results]
    nothing = torch.zeros(len(rows), device=rows.values.device)
    scoring = [call.kernel.source.scores for call in calls]
    parts = torch.stack([score.float() if scores else nothing for score, scores in zip(firsts, scoring, strict=True)])
    total = parts.sum(0) if weights is None else torch.tensor(weights, dtype=torch.float32, device=parts.device) @ parts
    return Launched(parts, total, results)


def _wrong(call: Call, parameter: Parameter, problem: str) -> KernelError:
    return KernelError(f"kernel {call.kernel.name!r}: {parameter.name} {problem}", where=[str(call.kernel.path)])
