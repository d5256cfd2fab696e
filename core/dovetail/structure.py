"""Strict reading of plain values into typed fields: nothing is rounded, nothing is guessed, every mistake is told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dovetail.errors import did_you_mean

if TYPE_CHECKING:
    from cattrs import Converter


class Mistake(ValueError):
    """A value that does not fit. Its message is shown to the user with the path of the value."""


def _only(kind: type, *also: type) -> Callable[[Any, Any], Any]:
    def read(value: Any, _: Any) -> Any:
        fits = isinstance(value, (kind, *also)) and (kind is bool or not isinstance(value, bool))
        if not fits:
            raise Mistake(f"expected {kind.__name__}, got {type(value).__name__} {value!r}")
        return kind(value)

    return read


@functools.cache
def converter() -> Converter:
    """The strict converter: int, float, bool and str are never turned into one another (int to float apart)."""
    import attrs
    from cattrs import Converter
    from cattrs.gen import make_dict_structure_fn

    strict = Converter(forbid_extra_keys=True)
    strict.register_structure_hook(int, _only(int))
    strict.register_structure_hook(float, _only(float, int))
    strict.register_structure_hook(bool, _only(bool))
    strict.register_structure_hook(str, _only(str))

    def attrs_hook(cls: type) -> Callable[[Any, Any], Any]:
        read_fields: Any = make_dict_structure_fn(cls, strict, _cattrs_forbid_extra_keys=True)

        def read(value: Any, kind: Any) -> Any:
            if isinstance(value, cls):
                return value
            if not isinstance(value, Mapping):
                raise Mistake(f"expected options of {cls.__name__}, got {type(value).__name__} {value!r}")
            return read_fields(value, kind)

        return read

    strict.register_structure_hook_factory(lambda kind: isinstance(kind, type) and attrs.has(kind), attrs_hook)
    return strict


def read_value(value: Any, kind: Any) -> Any:
    """Read one value as ``kind``; types that cattrs cannot read are passed through.

    Raises:
        Mistake: It does not fit; the message starts with the inner path if there is one.
    """
    from cattrs.errors import StructureHandlerNotFoundError

    if kind is Any or kind is None:
        return value
    try:
        return converter().structure(value, kind)
    except StructureHandlerNotFoundError:
        return value
    except Exception as error:  # cattrs groups errors of many types; all of them mean "does not fit"
        lines = [f"{path}: {text}" if path else text for path, text in explain(error)]
        raise Mistake("; ".join(lines)) from error


def explain(error: BaseException, path: str = "") -> Iterator[tuple[str, str]]:
    """Flatten cattrs' error tree into pairs of path and message."""
    from cattrs.errors import (
        AttributeValidationNote,
        ClassValidationError,
        ForbiddenExtraKeysError,
        IterableValidationError,
        IterableValidationNote,
    )

    if isinstance(error, ClassValidationError | IterableValidationError):
        for inner in error.exceptions:
            place = path
            for note in getattr(inner, "__notes__", ()):
                if isinstance(note, AttributeValidationNote):
                    place = f"{path}.{note.name}" if path else note.name
                elif isinstance(note, IterableValidationNote):
                    place = f"{path}[{note.index!r}]"
            yield from explain(inner, place)
    elif isinstance(error, ForbiddenExtraKeysError):
        import attrs

        known = [field.alias for field in attrs.fields(error.cl)] if error.cl and attrs.has(error.cl) else []
        for key in sorted(error.extra_fields):
            yield path, f"unknown option {key!r}, {did_you_mean(key, known)}"
    elif isinstance(error, KeyError):
        yield path, f"the option {error.args[0]!r} is required"
    else:
        yield path, str(error.args[0]) if error.args else type(error).__name__
