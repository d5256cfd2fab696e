"""Nodes: an operation, its inputs by port, its options, and the user's line that made it."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from dovetail.graph.types import PortType
from dovetail.parts import Part

_HERE = str(Path(__file__).resolve().parents[1])


@attrs.frozen
class Source:
    """A line of the user's code."""

    file: str
    line: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{self.file}:{self.line}" + (f"\n      {text}" if text else "")


def caller() -> Source:
    """The innermost line outside dovetail's core: the one that the user can change."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return Source(frame.f_code.co_filename, frame.f_lineno)


@attrs.frozen
class Ref:
    """An output port of a node."""

    node: str
    port: str

    def __str__(self) -> str:
        return self.node if self.port == "out" else f"{self.node}.{self.port}"


Place = Literal["collect", "either", "learn"]


@attrs.frozen(eq=False)
class Op:
    """What a node does.

    Args:
        name: Of the operation; the runtime finds its implementation by it.
        inputs: Port to type.
        outputs: Port to type; the first is the one meant when a node is used as a value.
        part: The part that does it, for rewards, advantages and losses.
        function: The Python function that does it, for ``@dt.op``.
        place: ``collect`` runs once a step without gradients, ``learn`` in every minibatch, ``either`` where its
            inputs are.
        offload: Runs beside the training thread.
        pure: Two nodes with the same inputs and options give the same value.
    """

    name: str
    inputs: Mapping[str, PortType]
    outputs: Mapping[str, PortType]
    part: Part | None = None
    function: Callable[..., Any] | None = None
    place: Place = "either"
    offload: bool = False
    pure: bool = True

    @property
    def label(self) -> str:
        """How drawings and errors call it."""
        return f"{self.name} {self.part.name}" if self.part else self.name

    def identity(self) -> tuple[Any, ...]:
        """What two operations must share to be the same one."""
        options = tuple(sorted((key, repr(value)) for key, value in self.part.options().items())) if self.part else ()
        part = (self.part.kind, self.part.name, self.part.weight, options) if self.part else ()
        return (self.name, part, self.function)


@attrs.frozen(eq=False)
class Node:
    """One step of a recipe. Names are identity across a lineage of algorithms."""

    name: str
    op: Op
    inputs: Mapping[str, Ref] = attrs.field(factory=dict)
    options: Mapping[str, Any] = attrs.field(factory=dict)
    source: Source | None = None

    @property
    def output(self) -> str:
        return next(iter(self.op.outputs))

    def settings(self) -> dict[str, Any]:
        """Its own options and those of its part."""
        return {**(self.op.part.options() if self.op.part else {}), **self.options}

    def where(self, label: str) -> list[str]:
        return [f"{label}: {self.source}"] if self.source else []

    def __str__(self) -> str:
        return f"{self.name!r} ({self.op.label})"
