"""A program: one launch of one or several kernels over the same rows."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from dovetail_kernels.kernel import Kernel
from dovetail_kernels.source import KernelError, Parameter
from dovetail_kernels.wrap import translation_unit

DTYPES = {"int": torch.int32, "float": torch.float32, "unsigned char": torch.uint8}


@attrs.frozen(eq=False)
class Batch:
    """What one launch is given; outputs are made beforehand, by torch."""

    offsets: Tensor  #: ``[B + 1]`` int64
    tensors: Sequence[Tensor]  #: per parameter that is no number: flat values ``[N]``, or a table
    numbers: Sequence[float]  #: per number
    weights: Tensor | None  #: ``[K]`` float32, one for each kernel; None if all are 1
    parts: Tensor  #: ``[K, B]`` float32, written
    total: Tensor  #: ``[B]`` float32, written: the weighted sum of the parts
    scratch: int  #: bytes for each row

    @property
    def rows(self) -> int:
        return self.total.shape[0]


@attrs.frozen(eq=False, slots=False)
class Program:
    """Kernels that run in one launch; :meth:`of` gives the same one for the same kernels."""

    kernels: tuple[Kernel, ...]
    name: str

    @classmethod
    def of(cls, kernels: tuple[Kernel, ...]) -> Program:
        if kernels not in _made:
            name = "+".join(kernel.name for kernel in kernels) + f"#{next(_numbers)}"
            _made[kernels] = _by_name[name] = cls(kernels, name)
        return _made[kernels]

    @functools.cached_property
    def parameters(self) -> tuple[tuple[Kernel, Parameter], ...]:
        return tuple((kernel, parameter) for kernel in self.kernels for parameter in kernel.source.parameters)

    @functools.cached_property
    def pointers(self) -> tuple[Parameter, ...]:
        return tuple(parameter for _, parameter in self.parameters if parameter.role != "number")

    @functools.cached_property
    def text(self) -> str:
        return translation_unit([kernel.source for kernel in self.kernels])

    def scratch(self, longest: int) -> int:
        """Bytes for a row of the longest length."""
        return max(-(-kernel.scratch_bytes(longest) // 16) * 16 for kernel in self.kernels)


_made: dict[tuple[Kernel, ...], Program] = {}
_by_name: dict[str, Program] = {}
_numbers = itertools.count(1)
_once = threading.Lock()


def run(
    program: str, offsets: Tensor, tensors: Sequence[Tensor], numbers: Sequence[float], weights: Tensor | None = None
) -> list[Tensor]:
    """Launch a program by name, on the device of its tensors; a KernelError tells if the offsets make no rows.

    Returns:
        The parts ``[K, B]``, the weighted total ``[B]``, and what the kernels write per token.
    """
    found, back_end = _by_name[program], _back_end(offsets.device.type)
    scratch = found.scratch(back_end.longest(found, offsets, tensors[0].shape[0]))
    outputs = _outputs(found, offsets, tensors)
    if outputs[1].shape[0]:
        given, written = iter(tensors), iter(outputs[2:])
        pointers = [next(written if p.role == "out" else given) for p in found.pointers]
        back_end.run(found, Batch(offsets, pointers, numbers, weights, outputs[0], outputs[1], scratch))
    return outputs


@functools.cache
def _back_end(device: str) -> Any:
    from dovetail_kernels import cpu, cuda

    return cuda if device == "cuda" else cpu


def launch_op() -> Any:
    """``dovetail_kernels::launch``: :func:`run` as an operator of torch, for what traces, compiles or captures."""
    with _once:  # torch takes an operator's name once
        return _launch_op()


@functools.cache
def _launch_op() -> Any:
    def shapes(
        program: str, offsets: Tensor, tensors: Sequence[Tensor], numbers: Sequence[float], weights: Tensor | None
    ) -> list[Tensor]:
        return _outputs(_by_name[program], offsets, tensors)

    schema = "(str program, Tensor offsets, Tensor[] tensors, float[] numbers, Tensor? weights=None) -> Tensor[]"
    devices = ("cpu", "cuda")
    op = torch.library.custom_op("dovetail_kernels::launch", run, mutates_args=(), device_types=devices, schema=schema)
    op.register_fake(shapes)
    return op


def _outputs(program: Program, offsets: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    rows, tokens = offsets.shape[0] - 1, tensors[0].shape[0]
    made = [offsets.new_empty(len(program.kernels), rows, dtype=torch.float32)]
    made.append(offsets.new_empty(rows, dtype=torch.float32))
    written = (parameter for parameter in program.pointers if parameter.role == "out")
    return made + [offsets.new_empty(tokens, dtype=DTYPES[parameter.ctype]) for parameter in written]


def check_rows(offsets: Tensor, tokens: int) -> int:
    """The longest row's length; a KernelError tells if the offsets do not cut ``tokens`` values into rows."""
    ends = offsets.cpu().numpy()  # whose small operations cost a tenth of torch's
    if (
        ends.dtype == np.int64
        and ends.size
        and ends[0] == 0
        and ends[-1] == tokens
        and not (ends[1:] < ends[:-1]).any()
    ):
        return int((ends[1:] - ends[:-1]).max(initial=0))
    raise KernelError(f"row offsets must be int64 and rise from 0 to the number of tokens ({tokens})")
