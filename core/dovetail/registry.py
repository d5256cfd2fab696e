"""The Python registry: ``dt.rewards.length(weight=0.1)``, by attribute or item, with the parts of a script beside."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import attrs

from dovetail import catalog
from dovetail.errors import DovetailError
from dovetail.parts import KINDS, Part, Provenance, build_part, check_hooks


@attrs.frozen
class PartFactory:
    """A part by name, not yet configured: call it with its options."""

    kind: str
    name: str
    target: Any
    provenance: Provenance

    def __call__(
        self, *, weight: Any = 1.0, name: str | None = None, process: bool | None = None, **options: Any
    ) -> Part:
        """Configure the part. ``weight``, ``name`` (its label in metrics) and a reward's ``process`` are the core's."""
        if process is not None and self.kind != "rewards":
            options["process"] = process  # an option like any other
        weight = weight if isinstance(weight, int | float) else as_part("weights", weight)
        part = build_part(self.kind, self.name, self.target, options, self.provenance)
        return attrs.evolve(part, weight=weight, label=name or self.name, process=process)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self.target.__doc__ or ""


class Registry:
    """All parts of one kind: the installed ones and those that a script registers."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._own: dict[str, Any] = {}

    def register(self, name: str, target: Any = None) -> Any:
        """Add a part of this script's own; also usable as a decorator, ``@dt.rewards.register("brevity")``."""
        if target is None:
            return functools.partial(self.register, name)
        self._own[name] = target
        return target

    def target(self, name: str) -> tuple[Any, Provenance]:
        """Import the class or function of a part; errors as for :func:`catalog.find` and :meth:`Entry.load`."""
        if name in self._own:
            return self._own[name], Provenance.of_script(self._own[name])
        entry = catalog.find(self.kind, name, also=self._own)
        return entry.load(), Provenance(entry.distribution, entry.version, entry.target)

    def __getitem__(self, name: str) -> Any:
        target, provenance = self.target(name)
        if self.kind in ("recipes", "commands"):
            return target
        return PartFactory(self.kind, name.partition("@")[0], target, provenance)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        hyphenated = name.replace("_", "-")  # which an attribute cannot be
        return self[hyphenated if hyphenated in self and name not in self else name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({entry.name for entry in catalog.entries() if entry.kind == self.kind} | set(self._own)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name.replace("-", "_") for name in self)]

    def __repr__(self) -> str:
        return f"<{self.kind}: {', '.join(self) or 'none installed'}>"


_registries = {kind: Registry(kind) for kind in KINDS}


def registry(kind: str) -> Registry:
    """The registry of a kind."""
    return _registries[kind]


def as_part(kind: str, value: Any) -> Part:
    """Read what a user may pass for a part: a part, a factory, a name, a class, a function, an instance."""
    if isinstance(value, str):
        value = registry(kind)[value]
    if isinstance(value, PartFactory):
        value = value()
    if isinstance(value, type) or inspect.isroutine(value):
        return build_part(kind, value.__name__.lower(), value, {})
    if not isinstance(value, Part):
        part = Part(kind, type(value).__name__.lower(), value)
        check_hooks(part)
        return part
    if value.kind != kind:
        raise DovetailError(f"a part of kind {kind} was expected, got {value}")
    return value
