"""A row function as its author wrote it: a .cu file whose C++ signature says what it reads, writes and is told."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from dovetail.errors import UserError

_NUMBERS = ("int", "float")
_POINTERS = ("int", "float", "unsigned char")


class KernelError(UserError):
    """A kernel is written wrongly, does not compile, or is given what it cannot take."""


@attrs.frozen
class Parameter:
    """One parameter of a row function."""

    name: str
    ctype: str  #: of a number, or of what a pointer points to
    role: str  #: ``row`` (read, a value per token), ``out`` (written, a value per token), ``table``, ``number``

    @property
    def declaration(self) -> str:
        return {"row": "const {}*", "table": "const {}*", "out": "{}*", "number": "{}"}[self.role].format(self.ctype)


@attrs.frozen(slots=False)
class RowFunction:
    """A row function: its name, its file, its text, and its parameters behind ``Ctx&`` without ``int len``."""

    name: str
    path: Path
    text: str = attrs.field(repr=False)
    scores: bool  #: it returns a float, the score of its row
    parameters: tuple[Parameter, ...]

    @classmethod
    def read(cls, path: Path) -> RowFunction:
        """Read the function that is named as its file; a KernelError shows how one looks if there is none.

        ``RK_FN float NAME(Ctx& c, <rows>, int len, <numbers and tables>)``: the pointers before ``len`` are rows, read
        if they are const and else written; those behind it are tables.
        """
        return _read(path)

    @functools.cached_property
    def rows(self) -> tuple[Parameter, ...]:
        """What it reads for each token."""
        return tuple(parameter for parameter in self.parameters if parameter.role == "row")

    @functools.cached_property
    def given(self) -> tuple[Parameter, ...]:
        """All that it does not write."""
        return tuple(parameter for parameter in self.parameters if parameter.role != "out")

    @functools.cached_property
    def written(self) -> tuple[Parameter, ...]:
        """What it writes for each token."""
        return tuple(parameter for parameter in self.parameters if parameter.role == "out")


@functools.cache
def _read(path: Path) -> RowFunction:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "name a file beside the module, and let the wheel include it"
        raise KernelError(f"the kernel {path} cannot be read: {error.strerror}", hint=hint) from error
    name = path.stem.replace("-", "_")
    # Comments go, and lines stay where they are.
    bare = re.sub(r"/\*.*?\*/|//[^\n]*", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.S)
    found = list(re.finditer(rf"RK_FN\s+(\w+)\s+{name}\s*\(\s*Ctx\s*&\s*\w+\s*,([^)]*)\)", bare))
    if not found:
        hint = f"write: RK_FN float {name}(Ctx& c, const int* completions, int len) {{ … }}"
        raise KernelError(f"no row function is called {name!r}", where=[f"{path}:1"], hint=hint)
    line = bare.count("\n", 0, found[-1].start()) + 1
    if found[-1][1] not in ("float", "void"):
        raise KernelError(f"{name!r} must return float, a score for its row, or void", where=[f"{path}:{line}"])
    parameters = tuple(_parameters(found[-1][2], f"{path}:{line}"))
    return RowFunction(name, path, text, found[-1][1] == "float", parameters)


def _parameters(text: str, where: str) -> Iterator[Parameter]:
    behind = False
    for written in (" ".join(piece.split()) for piece in text.split(",")):
        if written == "int len" and not behind:
            behind = True
            continue
        match = re.fullmatch(r"(const )?([a-z ]+?) ?(\*)? ?(\w+)", written)
        constant, ctype, pointer, name = match.groups() if match else (None, "", None, "")
        if pointer and ctype in _POINTERS and (constant or not behind):
            yield Parameter(name, ctype, "table" if behind else "row" if constant else "out")
        elif not pointer and behind and ctype in _NUMBERS:
            yield Parameter(name, ctype, "number")
        else:
            hint = (
                f"before `int len` come rows (const T* to read, T* to write), behind it numbers ({', '.join(_NUMBERS)}) "
                f"and tables (const T*); T is {', '.join(_POINTERS)}"
            )
            raise KernelError(f"a row function cannot have the parameter `{written}`", where=[where], hint=hint)
    if not behind:
        raise KernelError("a row function needs the parameter `int len`", where=[where])
