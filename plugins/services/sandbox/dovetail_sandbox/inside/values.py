"""Values as JSON that keeps their exact types. What comes out is made of plain Python objects, whatever went in."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Any

_DEEPEST = 100
_CONTAINERS: dict[Any, str] = {list: "l", tuple: "t", set: "s", frozenset: "z"}
_DICTS = (dict, defaultdict, OrderedDict, Counter)
_MAKE = {name: kind for kind, name in _CONTAINERS.items()}


def encode(value: Any, depth: int = 0) -> Any:
    """JSON for a value of a plain type. Dictionaries of ``collections`` become plain ones, iterators are used up.

    Any other subclass counts as another type.

    Raises:
        TypeError: It is of another type, or nested too deep.
    """
    if depth > _DEEPEST:
        raise TypeError("the value is nested too deep")
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if kind is int:
        return value if -(2**53) < value < 2**53 else {"i": hex(value)}
    if kind is float:
        return {"f": value.hex()}
    if kind is complex:
        return {"c": [value.real.hex(), value.imag.hex()]}
    if kind is bytes:
        return {"b": value.hex()}
    if kind in _CONTAINERS:
        return {_CONTAINERS[kind]: [encode(item, depth + 1) for item in value]}
    if kind in _DICTS:
        return {"d": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]}
    if kind is range:
        return {"r": [value.start, value.stop, value.step]}
    if hasattr(kind, "__next__"):
        return {"n": [encode(item, depth + 1) for item in value]}
    raise TypeError(f"a value of type {kind.__name__} cannot be compared")


def decode(data: Any) -> Any:
    """The value that :func:`encode` wrote.

    Raises:
        ValueError, TypeError, OverflowError: The data is not of that form.
    """
    if data is None or type(data) in (str, bool, int):
        return data
    if type(data) is not dict or len(data) != 1:
        raise ValueError("not an encoded value")
    ((name, content),) = data.items()
    if name in _MAKE:
        return _MAKE[name](decode(item) for item in content)
    if name == "n":
        return iter([decode(item) for item in content])
    if name == "r":
        return range(*content)
    if name == "d":
        return {decode(key): decode(item) for key, item in content}
    if name == "f":
        return float.fromhex(content)
    if name == "c":
        return complex(*map(float.fromhex, content))
    if name == "b":
        return bytes.fromhex(content)
    if name == "i":
        return int(content, 16)
    raise ValueError("not an encoded value")
