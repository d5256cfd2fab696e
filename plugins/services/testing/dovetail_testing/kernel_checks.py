"""What every kernel promises: the same numbers as its references, on every back end, in every order of its threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dovetail import load
from dovetail.errors import UserError
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail_testing.check import Check
from dovetail_testing.kernel_mutants import mutants

# Lengths of rows, of how many different tokens: empty rows and batches, single tokens, the longest row that is promised.
_SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((5, 0, 1, 2, 3, 12, 40, 33), 3),
    ((17, 64, 31, 7), 50),
    ((1, 1, 1), 2),
    ((0, 0), 1),
    ((), 1),
)
_LONG = ((32_768, 0, 7), 1000)
_WATCHED: tuple[tuple[tuple[int, ...], int], ...] = (((0, 1, 2, 3, 7, 21), 3), ((9, 33, 70), 2), ((16,), 40))
_REGISTERS = 64

Same = Callable[[Any, Any, str], None]


def check_kernel(
    kernel: Part | Callable[..., Any],
    *,
    options: Mapping[str, Any] | None = None,
    inputs: Callable[[Sequence[int], int, torch.Generator], Mapping[str, Any]] | None = None,
    atol: float = 1e-5,
    waive: Mapping[str, str] | None = None,
) -> list[Check]:
    """The checks of a kernel, for ``pytest.mark.parametrize``.

    Args:
        kernel: A part, such as ``dt.rewards.repetition(n=2)``, or a function under ``@dt.kernel_op``.
        options: Of a function.
        inputs: Makes the arguments from the rows' lengths, the number of different tokens and a source of chance;
            without it, rows of ``int`` are token ids, rows of ``float`` normal, and tables hold a number in [0, 1) per row.
        atol: How far two of the computations may lie apart.
        waive: Claim to the reason why this kernel need not keep it. A waiver of a claim that holds fails.

    Raises:
        UserError: ``dovetail-kernels`` is not installed, or there is no kernel in what is given.
    """
    subject, same = (
        load("dovetail_kernels.subject").Subject.of(kernel, options, inputs),
        functools.partial(_assert_same, atol=atol),
    )
    promises: dict[str, Callable[[], None]] = {
        "C++ gives what torch gives": functools.partial(_equals_reference, subject, same),
        "both give what plain Python gives": functools.partial(_equals_baseline, subject, same),
        "a row of 32,768 tokens is right": functools.partial(_is_right_on_long_rows, subject, same),
        "the smallest and the largest token ids are right": functools.partial(_is_right_at_extremes, subject, same),
        "what is no token id is refused": functools.partial(_refuses_bad_ids, subject),
        "it stays in its memory, in every order of its threads": functools.partial(
            _is_watched, subject, same, "fibers"
        ),
        "its threads do not race": functools.partial(_is_watched, subject, same, "threads"),
        "seeded bugs are caught": functools.partial(_catches_bugs, subject, same),
        "CUDA compiles it, in 64 registers and without spills": functools.partial(_compiles_for_cuda, subject),
    }
    if not any(p.ctype == "int" for p in subject.kernel.source.rows):
        del promises["what is no token id is refused"], promises["the smallest and the largest token ids are right"]
    reasons = waive or {}
    if unknown := sorted(set(reasons) - set(promises)):
        raise ValueError(f"no check claims {unknown[0]!r}; the claims are {list(promises)}")
    return [Check(claim, promise, reasons.get(claim)) for claim, promise in promises.items()]


def _assert_same(got: Any, expected: Any, what: str, atol: float) -> None:
    for mine, theirs in zip(_flat(got), _flat(expected), strict=True):
        close = torch.allclose(mine.double(), theirs.double(), atol=atol, rtol=atol)
        assert close, f"{what}: {mine.tolist()[:8]} and {theirs.tolist()[:8]}"


def _flat(result: Any) -> list[Tensor]:
    results = result if isinstance(result, tuple | list) else (result,)
    return [each.values if isinstance(each, Ragged) else each for each in results]


def _launched(call: Any) -> Any:
    """By the C++ back end."""
    from dovetail_kernels.launch import launch

    return launch([call], back_end="cpu").results[0]


def _equals_reference(subject: Any, same: Same) -> None:
    for seed, (lengths, alphabet) in enumerate(_SHAPES):
        call = subject.call(lengths, alphabet, seed=seed)
        same(_launched(call), call.refer(), f"rows of {lengths}")


def _equals_baseline(subject: Any, same: Same) -> None:
    assert subject.kernel.baseline is not None, "pass kernel_op a baseline: the same for one row in plain Python"
    for seed, (lengths, alphabet) in enumerate(_SHAPES):
        call = subject.call(lengths, alphabet, seed=seed)
        same(call.refer(), call.plain(), f"rows of {lengths}")


def _is_right_on_long_rows(subject: Any, same: Same) -> None:
    call = subject.call(*_LONG)
    same(_launched(call), call.refer(), f"rows of {_LONG[0]}")


def _is_right_at_extremes(subject: Any, same: Same) -> None:
    lengths, count = (3, 1, 0, 20), 24
    highest = subject.vocabulary - 1
    for ends in ((0,), (highest,), (0, highest), (highest - 1, highest)):
        call = subject.call(lengths, 2, tokens=torch.tensor(ends).repeat(count)[:count])
        same(_launched(call), call.refer(), f"token ids {ends}")


def _refuses_bad_ids(subject: Any) -> None:
    for bad in (-1, subject.vocabulary):
        call = subject.call((2, 1), 2, tokens=torch.tensor([0, bad, 0]))
        with pytest.raises(UserError, match=rf"holds {bad}\b"):
            _launched(call)


def _watched(subject: Any, flavour: str) -> Iterator[Any]:
    from dovetail_kernels.emulation import Case

    threads, seeds = ((1, 7, 32), (0, 1, 2)) if flavour == "fibers" else ((6,), (0,))
    for number, (lengths, alphabet) in enumerate(_WATCHED):
        call = subject.call(lengths, alphabet, seed=number)
        for count in threads:
            yield from (Case(call, count, seed) for seed in (seeds if count > 1 else seeds[:1]))


def _run(
    same: Same, variants: Sequence[Any], which: int, flavour: str, cases: Sequence[Any], limit: float = 60
) -> None:
    from dovetail_kernels.emulation import emulate

    expected = [case.call.refer() for case in cases]
    for case, got, right in zip(cases, emulate(variants, which, flavour, cases, limit=limit), expected, strict=True):
        same(got, right, f"{case.threads} threads, schedule {case.seed}")


def _variants(subject: Any) -> tuple[list[Any], list[Any]]:
    """The row function, then each mutant of it; and what the mutants are. All are compiled together, once."""
    planted = mutants(subject.kernel.source.text)
    return [subject.kernel.source, *(attrs.evolve(subject.kernel.source, text=each.text) for each in planted)], planted


def _is_watched(subject: Any, same: Same, flavour: str) -> None:
    from dovetail_kernels.emulation import Fault

    try:
        _run(same, _variants(subject)[0], 0, flavour, list(_watched(subject, flavour)))
    except Fault as fault:
        raise AssertionError(str(fault)) from fault


def _catches_bugs(subject: Any, same: Same) -> None:
    """Each bug is caught by the fibers or by the threads."""
    variants, planted = _variants(subject)
    assert planted, "no bug can be planted into this kernel"
    survivors = [
        str(mutant) for number, mutant in enumerate(planted, start=1) if _survives(subject, same, variants, number)
    ]
    assert not survivors, f"these bugs are noticed by nobody: {survivors}"


def _survives(subject: Any, same: Same, variants: Sequence[Any], which: int) -> bool:
    from dovetail_kernels.emulation import Fault

    for flavour in ("fibers", "threads"):
        try:
            _run(same, variants, which, flavour, list(_watched(subject, flavour)), limit=5)
        except (Fault, AssertionError):
            return False
    return True


def _compiles_for_cuda(subject: Any) -> None:
    from dovetail_kernels import nvrtc
    from dovetail_kernels.program import Program

    for architecture in filter(nvrtc.supports, nvrtc.ARCHITECTURES):
        usage = nvrtc.compile_for(architecture, Program.of((subject.kernel,)).text)
        assert usage.registers <= _REGISTERS, f"{architecture}: {usage.registers} registers"
        assert usage.spills == 0, f"{architecture}: {usage.spills} bytes spilled"
