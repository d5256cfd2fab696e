"""Strict reading of plain values into typed fields: nothing is rounded, nothing is guessed, every mistake is told."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dovetail.errors import did_you_mean

if TYPE_CHECKING:
    from cattrs import Converter


class Mistake(ValueError):
    """A value that does not fit. Its message is shown to the user with the path of the value."""


def _unfit(value: Any, expected: str) -> Mistake:
    return Mistake(f"expected {expected}, got {type(value).__name__} {value!r}")


@functools.cache
def converter() -> Converter:
    """The strict converter: int, float, bool, str and lists are never turned into one another (int to float apart)."""
    from cattrs import Converter
    from cattrs.cols import is_any_set, is_sequence

    strict = Converter(forbid_extra_keys=True)
    for primitive in (int, float, bool, str):
        strict.register_structure_hook(primitive, _read_primitive)
    strict.register_structure_hook_factory(attrs.has, _fields_hook)
    strict.register_structure_hook_factory(lambda kind: is_sequence(kind) or is_any_set(kind), _collection_hook)
    return strict


def _read_primitive(value: Any, kind: type) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise _unfit(value, kind.__name__)
    return kind(value)


def _fields_hook(cls: type, strict: Converter) -> Callable[[Any, Any], Any]:
    read_fields: Any = strict.gen_structure_attrs_fromdict(cls)

    def read(value: Any, kind: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise _unfit(value, f"options of {cls.__name__}")
        return read_fields(value, kind)

    return read


def _collection_hook(kind: Any, strict: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.cols import list_structure_factory

    collections: dict[Any, type] = {list: list, set: set, frozenset: frozenset}
    collect = collections.get(typing.get_origin(kind) or kind, tuple)
    read_list = list_structure_factory(kind, strict)

    def read(value: Any, _: Any) -> Any:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise _unfit(value, "a list")
        return collect(read_list(value, kind))

    return read


def read_value(value: Any, kind: Any) -> Any:
    """Read one value as ``kind``, or raise Mistake with the inner path; what cattrs does not know passes through."""
    from cattrs.errors import StructureHandlerNotFoundError

    if kind is Any or kind is None:
        return value
    try:
        return converter().structure(value, kind)
    except StructureHandlerNotFoundError:
        return value
    except Exception as error:  # cattrs groups errors of many types; all of them mean "does not fit"
        raise Mistake("; ".join(f"{path}: {text}" if path else text for path, text in explain(error))) from error


def explain(error: BaseException, path: str = "") -> Iterator[tuple[str, str]]:
    """Flatten cattrs' error tree into pairs of path and message."""
    from cattrs import errors

    if isinstance(error, errors.ClassValidationError | errors.IterableValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            step = f".{note.name}" if isinstance(note, errors.AttributeValidationNote) else f"[{note.index!r}]"
            yield from explain(inner, f"{path}{step}".removeprefix("."))
        for inner in others:
            yield from explain(inner, path)
    elif isinstance(error, errors.ForbiddenExtraKeysError):
        known = [field.alias for field in attrs.fields(error.cl)] if attrs.has(error.cl) else []
        for key in sorted(error.extra_fields):
            yield path, f"unknown option {key!r}, {did_you_mean(key, known)}"
    elif isinstance(error, KeyError):
        yield path, f"the option {error.args[0]!r} is required"
    else:
        yield path, str(error.args[0]) if error.args else type(error).__name__
