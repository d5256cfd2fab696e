"""The C++ back end: rows are shared out among threads, each row to one."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail_kernels.build import build
from dovetail_kernels.program import Batch, Program, check_rows

# Tokens that keep a thread busy for longer than it takes to start one.
_WORTH_A_THREAD = 1 << 13

_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_NUMBERS: Mapping[str, tuple[Any, type]] = {"int": (_INT, int), "float": (ctypes.c_float, float)}


@attrs.frozen(eq=False)
class Library:
    """What the compiler made of a program."""

    launch: Any
    longest: Any
    narrow: Any
    converters: Sequence[type | None]  #: of each parameter: what makes an argument of a number, None for a pointer


@functools.cache
def loaded(program: Program) -> Library:
    """The program, ready to run; raises as :func:`dovetail_kernels.build.build`."""
    made = ctypes.CDLL(str(build(program.text)))
    own = [_NUMBERS[p.ctype] if p.role == "number" else (_POINTER, None) for _, p in program.parameters]
    made.rk_launch.argtypes = [_POINTER, _LONG, *[_POINTER] * 3, *(ctype for ctype, _ in own), _LONG, _INT]
    made.rk_longest.argtypes, made.rk_longest.restype = [_POINTER, _LONG, _LONG], _LONG
    made.rk_narrow.argtypes = [_POINTER, _POINTER, _LONG, _LONG]
    return Library(made.rk_launch, made.rk_longest, made.rk_narrow, [convert for _, convert in own])


def run(program: Program, batch: Batch) -> None:
    """Launch on CPU tensors; a MemoryError tells if there is none for the scratch."""
    library = loaded(program)
    tensors, numbers = iter(batch.tensors), iter(batch.numbers)
    given = [next(tensors).data_ptr() if make is None else make(next(numbers)) for make in library.converters]
    threads = max(1, min(torch.get_num_threads(), batch.rows, batch.tensors[0].shape[0] // _WORTH_A_THREAD))
    failed = library.launch(
        batch.offsets.data_ptr(), batch.rows, None if batch.weights is None else batch.weights.data_ptr(),
        batch.parts.data_ptr(), batch.total.data_ptr(), *given, batch.scratch, threads,
    )  # fmt: skip
    if failed:
        raise MemoryError(f"{program.name} found no {batch.scratch} bytes of scratch for each of {threads} threads")


def longest(program: Program, offsets: Tensor, tokens: int) -> int:
    """The longest row's length; a KernelError tells if the offsets make no rows."""
    found = -1
    if offsets.dtype == torch.int64 and offsets.shape[0]:
        found = loaded(program).longest(offsets.data_ptr(), offsets.shape[0] - 1, tokens)
    return found if found >= 0 else check_rows(offsets, tokens)


def narrow(program: Program, ids: Tensor, limit: int) -> Tensor | None:
    """Contiguous int64 token ids as int32; None if one is not from 0 to ``limit - 1``."""
    made = torch.empty(ids.shape[0], dtype=torch.int32)
    wrong = loaded(program).narrow(ids.data_ptr(), made.data_ptr(), ids.shape[0], limit)
    return None if wrong else made
