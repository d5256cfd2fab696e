"""A kernel: a row function, its torch reference, and how the two are given the same values by name."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from dovetail.errors import did_you_mean
from dovetail_kernels.source import KernelError, RowFunction


@attrs.frozen(eq=False, slots=False)
class Kernel:
    """What ``@dt.kernel_op`` makes of a function or method, whose body is the reference."""

    reference: Callable[..., Any]
    path: Path
    scratch: Callable[[int], int] | None = None
    baseline: Callable[..., float] | None = None

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

    @property
    def is_method(self) -> bool:
        return next(iter(self.signature.parameters), "") == "self"


@attrs.frozen(eq=False)
class Call:
    """A kernel and the values for its parameters by name: arguments of the reference, then options and tables."""

    kernel: Kernel
    given: Mapping[str, Any]

    @classmethod
    def bind(cls, kernel: Kernel, *args: Any, **kwargs: Any) -> Call:
        """What the reference would be called with."""
        bound = kernel.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cls(kernel, bound.arguments)

    @property
    def owner(self) -> Any:
        return self.given.get("self") if self.kernel.is_method else None

    def value(self, name: str) -> Any:
        """Of the row function's parameter; a KernelError tells what is known if nothing is called so."""
        if name in self.given:
            return self.given[name]
        if hasattr(self.owner, name):
            return getattr(self.owner, name)
        tables = tables_of(self.owner)
        if name in tables:
            return tables[name]
        known = [key for key in (*self.given, *vars_of(self.owner), *tables) if key != "self"]
        raise KernelError(
            f"the row function {self.kernel.name!r} asks for {name!r}, which is no argument, option or table",
            where=[str(self.kernel.path)],
            hint=did_you_mean(name, known),
        )

    def refer(self) -> Any:
        """Let torch do it."""
        positional = [value for name, value in self.given.items() if self._kind(name) != "keyword"]
        named = {name: value for name, value in self.given.items() if self._kind(name) == "keyword"}
        return self.kernel.reference(*positional, **named)

    def _kind(self, name: str) -> str:
        parameter = self.kernel.signature.parameters[name]
        return "keyword" if parameter.kind is parameter.KEYWORD_ONLY else "positional"


def vars_of(owner: Any) -> list[str]:
    return (
        [field.alias for field in attrs.fields(type(owner))]
        if attrs.has(type(owner))
        else list(vars(owner) if owner else ())
    )


_tables: dict[int, tuple[Any, Mapping[str, Tensor]]] = {}


def tables_of(owner: Any) -> Mapping[str, Tensor]:
    """What a part's method ``tables()`` gives, asked once for each part."""
    make = getattr(owner, "tables", None)
    if make is None:
        return {}
    kept = _tables.get(id(owner))
    if kept is None or kept[0]() is not owner:
        reference = weakref.ref(owner, lambda _, key=id(owner): _tables.pop(key, None))
        kept = _tables[id(owner)] = reference, make()
    return kept[1]
