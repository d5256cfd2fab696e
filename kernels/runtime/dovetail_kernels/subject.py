"""A kernel with options, ready to be called on made-up data: what checks and benchmarks look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail_kernels.kernel import Call, Kernel
from dovetail_kernels.op import find_kernel
from dovetail_kernels.source import KernelError

#: Makes the arguments of a kernel from the rows' lengths, the number of different tokens, and a source of chance.
Inputs = Callable[[Sequence[int], int, torch.Generator], Mapping[str, Any]]


@attrs.frozen(eq=False)
class Subject:
    """A kernel, the object whose method it is, and its options."""

    kernel: Kernel
    owner: Any
    options: Mapping[str, Any]
    inputs: Inputs | None = None

    @classmethod
    def of(
        cls, given: Part | Callable[..., Any], options: Mapping[str, Any] | None = None, inputs: Inputs | None = None
    ) -> Subject:
        """Of a part, or of a function or method under ``@dt.kernel_op``; a KernelError tells if there is no kernel."""
        kernel, owner, bound = find_kernel(given)
        if kernel is None:
            raise KernelError(f"there is no kernel in {given}", hint="put @dt.kernel_op above its function or hook")
        return cls(kernel, owner, {**bound, **(options or {})}, inputs)

    @property
    def vocabulary(self) -> int:
        """Token ids are below it."""
        return getattr(self.owner, "vocabulary", None) or 2**31

    def call(self, lengths: Sequence[int], alphabet: int, *, seed: int = 0, tokens: Tensor | None = None) -> Call:
        """A call on random rows of these lengths, or on the given token ids ``[N]``."""
        generator = torch.Generator().manual_seed(seed)
        alphabet = min(alphabet, self.vocabulary)
        given = (self.inputs or self._made_up)(lengths, alphabet, generator)
        if tokens is not None:
            given = {name: v.with_values(tokens) if _holds_ids(v) else v for name, v in given.items()}
        return Call.bind(self.kernel, *([self.owner] if self.kernel.is_method else []), **given, **self.options)

    def _made_up(self, lengths: Sequence[int], alphabet: int, generator: torch.Generator) -> dict[str, Any]:
        """Token ids, normal numbers, bits; and a number in [0, 1) per row where an argument is a table."""
        arguments = [name for name in self.kernel.signature.parameters if name != "self" and name not in self.options]
        rows = torch.tensor(lengths, dtype=torch.int64)
        made: dict[str, Any] = {}
        for parameter in self.kernel.source.parameters:
            if parameter.name in arguments and parameter.role == "table":
                made[parameter.name] = torch.rand(len(lengths), generator=generator)
            elif parameter.name in arguments and parameter.role == "row":
                values = _values(parameter.ctype, sum(lengths), alphabet, generator)
                made[parameter.name] = Ragged.from_lengths(values, rows)
        return made


def _values(ctype: str, count: int, alphabet: int, generator: torch.Generator) -> Tensor:
    if ctype == "float":
        return torch.randn(count, generator=generator)
    if ctype == "unsigned char":
        return torch.rand(count, generator=generator) < 0.5
    return torch.randint(0, alphabet, (count,), generator=generator)


def _holds_ids(value: Any) -> bool:
    return isinstance(value, Ragged) and value.values.dtype == torch.int64
