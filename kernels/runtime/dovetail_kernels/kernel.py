"""A kernel: a row function, its torch reference, and how the two are given the same values by name."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.errors import did_you_mean
from dovetail.ragged import Ragged
from dovetail_kernels.source import KernelError, RowFunction


@attrs.frozen(eq=False, slots=False)
class Kernel:
    """What ``@dt.kernel_op`` makes of a function or method, whose body is the reference."""

    reference: Callable[..., Any]
    path: Path
    scratch: Callable[[int], int] | None = None
    baseline: Callable[..., Any] | None = None

    @functools.cached_property
    def source(self) -> RowFunction:
        return RowFunction.read(self.path)

    @property
    def name(self) -> str:
        return self.path.stem

    def scratch_bytes(self, longest: int) -> int:
        return self.scratch(max(longest, 1)) if self.scratch else 0

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.reference)

    @functools.cached_property
    def is_method(self) -> bool:
        return next(iter(self.signature.parameters), "") == "self"


@attrs.frozen(eq=False)
class Call:
    """A kernel and the values for its parameters by name: arguments of the reference, then options and tables."""

    kernel: Kernel
    bound: inspect.BoundArguments
    given: Mapping[str, Any]  #: arguments by name
    owner: Any  #: the object whose method the reference is, or None

    @classmethod
    def bind(cls, kernel: Kernel, *args: Any, **kwargs: Any) -> Call:
        """What the reference would be called with."""
        bound = kernel.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        return cls(kernel, bound, given, given.get("self") if kernel.is_method else None)

    def value(self, name: str) -> Any:
        """Of the row function's parameter; a KernelError tells what is known if nothing is called so."""
        if name in self.given:
            return self.given[name]
        if (own := getattr(self.owner, name, _NOTHING)) is not _NOTHING:
            return own
        tables = tables_of(self.owner)
        if name in tables:
            return tables[name]
        known = [*self.given, *(key for key in dir(self.owner) if not key.startswith("_")), *tables]
        raise KernelError(
            f"the row function {self.kernel.name!r} asks for {name!r}, which is no argument, option or table",
            where=[str(self.kernel.path)],
            hint=did_you_mean(name, known),
        )

    def refer(self) -> Any:
        """Let torch do it."""
        return self.kernel.reference(*self.bound.args, **self.bound.kwargs)

    def plain(self) -> list[Tensor]:
        """What the baseline in plain Python gives: the scores ``[B]``, if there are any, and what is written, float64."""
        assert self.kernel.baseline is not None
        rows = self.value(self.kernel.source.rows[0].name)
        wanted = {name: self.value(name) for name in inspect.signature(self.kernel.baseline).parameters}
        lists = {name: value.tolist() for name, value in wanted.items() if isinstance(value, Ragged)}
        # A tensor among the arguments holds a number per row; any other one is a table.
        lists |= {n: v.tolist() for n, v in wanted.items() if isinstance(v, Tensor) and n in self.given}
        width = int(self.kernel.source.scores) + len(self.kernel.source.written)
        columns: list[list[float]] = [[] for _ in range(width)]
        for row in range(len(rows)):
            given = {name: lists[name][row] if name in lists else value for name, value in wanted.items()}
            result = self.kernel.baseline(**given)
            for column, values in zip(columns, result if isinstance(result, tuple) else (result,), strict=True):
                column += values if isinstance(values, list) else [values]
        return [torch.tensor(column, dtype=torch.float64) for column in columns]


class Tables(dict[str, Tensor]):
    """A part's tables; ``ready`` keeps, for each kernel, those that its row function reads, as it reads them."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__(given)
        self.ready: dict[Kernel, Mapping[str, Tensor]] = {}


_NOTHING = object()
_NONE = Tables({})
_tables: dict[int, tuple[Any, Tables]] = {}


def tables_of(owner: Any) -> Tables:
    """What a part's method ``tables()`` gives, asked once for each part."""
    make = getattr(owner, "tables", None)
    if make is None:
        return _NONE
    kept = _tables.get(id(owner))
    if kept is None or kept[0]() is not owner:
        key = id(owner)
        kept = _tables[key] = weakref.ref(owner, lambda _: _tables.pop(key, None)), Tables(make())
    return kept[1]
