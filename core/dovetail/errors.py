"""Every error that dovetail raises on purpose: what went wrong, where, and the way out."""

from __future__ import annotations

from collections.abc import Iterable


class DovetailError(Exception):
    """Base of all errors raised on purpose.

    ``what`` is one sentence that says what is wrong; ``where`` holds lines that name the place (a file and line, a
    config path, a part and its distribution); ``hint`` is the reader's next step.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: Iterable[str] = (), hint: str = "") -> None:
        self.what, self.where, self.hint = what, tuple(where), hint
        super().__init__(what)

    def __str__(self) -> str:
        way_out = [f"  try: {self.hint}"] if self.hint else []
        return "\n".join([self.what, *(f"  at {place}" for place in self.where), *way_out])


class UserError(DovetailError):
    """The user's input is wrong; nothing has been run yet (exit code 2)."""

    exit_code = 2


class PartNotFound(UserError, LookupError, AttributeError):
    """No part of this kind has the given name. Registries are read by item and by attribute, so it is both errors."""


class PartImportError(UserError):
    """A part was named and its module cannot be imported."""


class PartClash(UserError):
    """Two installed distributions offer the same name, and it was named without saying which."""


class OptionError(UserError):
    """A part or recipe was given an option that it does not have, or a value that does not fit."""


class RecipeError(UserError):
    """A recipe or an edit of its graph is wrong."""


class ConfigError(UserError):
    """A configuration is wrong. ``mistakes`` holds one line for each mistake found."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        count = "a mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        super().__init__("\n  - ".join([f"the configuration has {count}:", *self.mistakes]))


class DataError(UserError):
    """A data file or a task is wrong: a missing column, a broken line, an empty set."""


class CheckpointError(UserError):
    """A checkpoint cannot be written, read, or does not fit this run."""


class PartError(DovetailError):
    """A part broke its contract during a run: wrong length, wrong type, a value that is not finite, an exception."""


class TooManyInvalid(DovetailError):
    """More samples have no valid reward than ``max_invalid`` allows."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for a near miss, otherwise the list of what is known."""
    import difflib

    names = sorted(set(known))
    if close := difflib.get_close_matches(word, names, n=1):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none are known"
