"""Between spaces and words: an observation as text, an action out of text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dovetail import UserError

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def observation_text(value: Any) -> str:
    """Numbers with four digits, vectors in brackets, the entries of a mapping in lines."""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {observation_text(inner)}" for name, inner in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(observation_text, value))
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return f"[{', '.join(map(observation_text, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """A game's info as JSON can hold it; what it cannot hold is left out."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items() if plain(inner) is not None}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else None


def check_names(names: Sequence[str]) -> None:
    """Refuse names that cannot be told apart in a text."""
    lowered = [name.lower() for name in names]
    if not all(name.strip() == name and name for name in names):
        raise ValueError("an action's name is a word without white space around it")
    if len(set(lowered)) < len(lowered):
        raise ValueError("two actions have the same name; case does not count")


class Actions:
    """What a policy may do, and how it says so."""

    def __init__(self, space: Any, names: Sequence[str], pattern: str | None) -> None:
        from gymnasium import spaces

        self._space, self._names, self._discrete = space, tuple(names), isinstance(space, spaces.Discrete)
        vectors = (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
        if not self._discrete and not isinstance(space, vectors):
            raise UserError(
                f"actions of the space {space} have no words yet", hint="wrap the game into one that has them"
            )
        if self._discrete:
            self._names = self._names or tuple(str(space.start + number) for number in range(space.n))
            if len(self._names) != space.n:
                raise UserError(f"{len(self._names)} actions are named, and the game has {space.n}")
        elif names:
            raise UserError(f"actions of the space {space} are numbers and have no names", hint="leave out `actions`")
        # The longest first, so that "left" is not found in "left turn". A word ends where no letter or digit follows.
        any_name = "|".join(re.escape(name) for name in sorted(self._names, key=len, reverse=True))
        self._named = re.compile(rf"(?<!\w)({any_name})(?!\w)", re.IGNORECASE)
        self._pattern = re.compile(pattern) if pattern else None

    def __str__(self) -> str:
        if self._discrete:
            return ", ".join(self._names)
        space, count = self._space, math.prod(self._space.shape)
        if hasattr(space, "high"):
            return f"{count} numbers from {observation_text(space.low)} to {observation_text(space.high)}"
        return f"{count} whole numbers from 0, each below {observation_text(getattr(space, 'nvec', 2))}"

    def read(self, text: str) -> Any:
        """The action in a text, or None if it names none that the game allows."""
        if self._pattern is not None:
            matches = list(self._pattern.finditer(text))
            text = (matches[-1][1] or "") if matches else ""
        return self._read_name(text) if self._discrete else self._read_numbers(text)

    def _read_name(self, text: str) -> Any:
        found = self._named.findall(text)
        if not found:
            return None
        lowered = [name.lower() for name in self._names]
        return self._space.start + lowered.index(found[-1].lower())

    def _read_numbers(self, text: str) -> Any:
        import numpy

        count = math.prod(self._space.shape)
        numbers = [float(number) for number in _NUMBER.findall(text)[-count:]]
        if len(numbers) < count or not all(map(math.isfinite, numbers)):
            return None
        action = numpy.array(numbers).reshape(self._space.shape).astype(self._space.dtype)
        exact = (
            numpy.issubdtype(self._space.dtype, numpy.floating)
            or (action == numpy.array(numbers).reshape(action.shape)).all()
        )
        return action if exact and self._space.contains(action) else None
