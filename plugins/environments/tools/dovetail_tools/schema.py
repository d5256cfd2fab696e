"""Type hints as JSON schema."""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

import attrs

_PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_LISTS = (list, set, frozenset, Sequence, Iterable)
_CAN_HOLD = "str, int, float, bool, None, list, tuple, dict, Literal, an Enum, a TypedDict or a dataclass"


def schema_of(hint: Any, place: str) -> dict[str, Any]:
    """The JSON schema of a type; a text in ``Annotated`` is its description.

    Raises:
        TypeError: JSON cannot hold it; ``place`` says whose type it is.
    """
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return {}
    if origin in (typing.Required, typing.NotRequired):
        return schema_of(arguments[0], place)
    if origin is Annotated:
        words = [word for word in arguments[1:] if isinstance(word, str)]
        return schema_of(arguments[0], place) | ({"description": words[0]} if words else {})
    if hint in _PRIMITIVES:
        return {"type": _PRIMITIVES[hint]}
    if origin is Literal:
        return _one_of(list(arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _one_of([member.value for member in hint])
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(each, place) for each in arguments]}
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        count = {"minItems": len(arguments), "maxItems": len(arguments)}
        return {"type": "array", "prefixItems": [schema_of(each, place) for each in arguments], **count}
    if origin in (*_LISTS, tuple):
        return {"type": "array", **({"items": schema_of(arguments[0], place)} if arguments else {})}
    if origin in (dict, Mapping) and (not arguments or arguments[0] is str):
        return {"type": "object", **({"additionalProperties": schema_of(arguments[1], place)} if arguments else {})}
    if typing.is_typeddict(hint):
        return _object(hint, sorted(hint.__required_keys__), place)
    if attrs.has(hint):
        return _object(hint, [f.alias for f in attrs.fields(hint) if f.default is attrs.NOTHING], place)
    if dataclasses.is_dataclass(hint):
        fields, nothing = dataclasses.fields(hint), dataclasses.MISSING
        return _object(hint, [f.name for f in fields if f.default is f.default_factory is nothing], place)
    raise TypeError(f"{place} is {hint!r}, which JSON cannot hold; use {_CAN_HOLD}")


def is_json(value: Any) -> bool:
    """Whether a value reads back from JSON as it was."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def _one_of(values: list[Any]) -> dict[str, Any]:
    kinds = {_PRIMITIVES.get(type(value)) for value in values}
    kind = {"type": kinds.pop()} if len(kinds) == 1 and None not in kinds else {}
    return {**kind, "enum": values}


def _object(hint: Any, required: list[str], place: str) -> dict[str, Any]:
    hints = typing.get_type_hints(hint, include_extras=True)
    properties = {name: schema_of(inner, f"{place}.{name}") for name, inner in hints.items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
