"""Nodes: an operation, its inputs by port, its options, and the user's line that made it."""

from __future__ import annotations

import itertools
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.types import PortType
from dovetail.parts import Part

_HERE = f"{Path(__file__).resolve().parents[1]}{os.sep}", f"{os.sep}dovetail_episodes{os.sep}"  # the homes of words


def caller(error: Exception | None = None) -> str:
    """The innermost line that called into dovetail's core, now or when ``error`` arose: the one that users can change."""
    frames = traceback.extract_tb(error.__traceback__) if error else traceback.extract_stack()
    core_first = itertools.dropwhile(lambda frame: not _is_ours(frame), reversed(frames))
    return next((place(frame) for frame in core_first if not _is_ours(frame)), "")


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return any(home in frame.filename for home in _HERE)


def place(frame: traceback.FrameSummary) -> str:
    """How errors show a line of the user's code."""
    return f"{frame.filename}:{frame.lineno}" + (f"\n      {frame.line}" if frame.line else "")


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
    """What a node does: by a part, by a Python function under the name ``op``, else by what the runtime has by its name.

    Ports have types; the first output is the one meant when a node is used as a value. ``collect`` runs once a step
    without gradients, ``learn`` in every minibatch, ``either`` where its inputs are. ``offload`` runs beside the
    training thread. Two ``pure`` nodes with the same inputs and options give the same value.
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
        if self.part:
            return f"{self.name} {self.part.name}"
        return self.function.__name__ if self.function else self.name

    def identity(self) -> tuple[Any, ...]:
        """What two operations must share to be the same one."""
        if self.part is None:
            return (self.name, self.function)
        options = sorted((key, repr(value)) for key, value in self.part.options().items())
        return (self.name, self.part.kind, self.part.name, self.part.weight, *options)


@attrs.frozen(eq=False)
class Node:
    """One step of a recipe. Names are identity across a lineage of algorithms; ``source`` is the line that made it."""

    name: str
    op: Op
    inputs: Mapping[str, Ref] = attrs.field(factory=dict)
    options: Mapping[str, Any] = attrs.field(factory=dict)
    source: str = ""

    @property
    def output(self) -> str:
        return next(iter(self.op.outputs))

    def settings(self) -> dict[str, Any]:
        """Its own options and those of its part."""
        return {**(self.op.part.options() if self.op.part else {}), **self.options}

    def where(self, label: str) -> list[str]:
        return [f"{label}: {self.source}"] if self.source else []

    def lacks(self, what: str, name: str, known: Iterable[str]) -> RecipeError:
        """The error for an option or port that this node does not have."""
        hint = did_you_mean(name, known)
        return RecipeError(f"{self} has no {what} {name!r}", where=self.where("made"), hint=hint)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.op.label})"
