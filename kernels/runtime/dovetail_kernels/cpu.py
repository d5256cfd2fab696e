"""The C++ back end: rows are shared out among threads, each row to one."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch

from dovetail_kernels.build import build
from dovetail_kernels.program import Batch, Program

# Tokens that keep a thread busy for longer than it takes to start one.
_WORTH_A_THREAD = 1 << 11


def run(program: Program, batch: Batch) -> None:
    """Launch on CPU tensors; a MemoryError tells if there is none for the scratch."""
    function = loaded(program)
    tensors, numbers = iter(batch.tensors), iter(batch.numbers)
    given: list[Any] = [
        _pointer(next(tensors)) if parameter.role != "number" else _number(parameter.ctype, next(numbers))
        for _, parameter in program.parameters
    ]
    threads = max(1, min(torch.get_num_threads(), batch.rows, len(batch.tensors[0]) // _WORTH_A_THREAD))
    failed = function(
        _pointer(batch.offsets), ctypes.c_longlong(batch.rows), _pointer(batch.weights), _pointer(batch.parts),
        _pointer(batch.total), *given, ctypes.c_longlong(batch.scratch), ctypes.c_int(threads),
    )  # fmt: skip
    if failed:
        raise MemoryError(f"{program.name} found no {batch.scratch} bytes of scratch for each of {threads} threads")


@functools.cache
def loaded(program: Program) -> Any:
    """The compiled launch; raises as :func:`dovetail_kernels.build.build`."""
    return ctypes.CDLL(str(build(program.text))).rk_launch


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _number(ctype: str, value: float) -> Any:
    return ctypes.c_int(int(value)) if ctype == "int" else ctypes.c_float(value)
