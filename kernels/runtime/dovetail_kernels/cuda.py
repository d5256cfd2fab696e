"""The CUDA back end: CuPy compiles and launches on torch's memory and torch's current stream."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail_kernels.build import compile_error
from dovetail_kernels.program import Batch, Program, check_rows

_THREADS = 256
_BLOCKS_PER_PROCESSOR = 8


def run(program: Program, batch: Batch) -> None:
    """Launch on CUDA tensors of one device."""
    import cupy

    device = batch.offsets.device
    with torch.cuda.device(device), cupy.cuda.Device(device.index):
        function, shared, processors = loaded(program, device.index)
        blocks = min(batch.rows, processors * _BLOCKS_PER_PROCESSOR)
        # A row that needs more than a processor's shared memory works in global memory, a piece for each block.
        fits = batch.scratch <= shared
        workspace = None if fits else torch.empty(blocks * batch.scratch, dtype=torch.uint8, device=device)
        tensors, numbers = iter(batch.tensors), iter(batch.numbers)
        given: list[Any] = [
            next(tensors).data_ptr() if parameter.role != "number" else _number(parameter.ctype, next(numbers))
            for _, parameter in program.parameters
        ]
        arguments = (
            batch.offsets.data_ptr(), np.int64(batch.rows), _pointer(batch.weights), batch.parts.data_ptr(),
            batch.total.data_ptr(), *given, np.int64(batch.scratch), _pointer(workspace),
        )  # fmt: skip
        # Read at every launch: a stream that is kept captures an empty graph.
        with cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream):
            function((blocks,), (_THREADS,), arguments, shared_mem=batch.scratch if fits else 0)


def longest(program: Program, offsets: Tensor, tokens: int) -> int:
    """The longest row's length; a KernelError tells if the offsets make no rows.

    Under capture nothing may wait for the device: the whole batch bounds a row, whose offsets were checked before.
    """
    return tokens if torch.cuda.is_current_stream_capturing() else check_rows(offsets, tokens)


@functools.cache
def loaded(program: Program, index: int) -> tuple[Any, int, int]:
    """The compiled launch, the bytes of shared memory that a block may use, and the number of processors."""
    import cupy

    with cupy.cuda.Device(index) as device:
        try:
            function = cupy.RawModule(code=program.text, options=("--std=c++17",)).get_function("rk_launch")
        except cupy.cuda.compiler.CompileException as error:
            # What is no error of the kernel's: a toolkit that does not know this GPU, for one.
            raise compile_error(str(error)) or RuntimeError(str(error)) from error
        shared = device.attributes["MaxSharedMemoryPerBlockOptin"] - 1024
        function.max_dynamic_shared_size_bytes = shared
        return function, shared, device.attributes["MultiProcessorCount"]


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _number(ctype: str, value: float) -> Any:
    """Of the size that the kernel reads: a bare Python float is 8 bytes, and silently wrong."""
    return np.int32(int(value)) if ctype == "int" else np.float32(value)
