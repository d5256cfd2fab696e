"""Discovery: entry points are the manifest. Listing reads metadata only and imports nothing."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from dovetail.errors import PartClash, PartImportError, PartNotFound, did_you_mean

GROUP_PREFIX = "dovetail."


class Entry(NamedTuple):
    """One line of the manifest: a part that a distribution offers."""

    kind: str
    name: str
    target: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import the part.

        Raises:
            PartImportError: With the cause, and the step that mends it.
        """
        module, _, attribute = self.target.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for step in attribute.split(".") if attribute else ():
                found = getattr(found, step)
        except Exception as error:  # whatever a plugin raises on import, the user needs to know whose it is
            raise self._import_error(error) from error
        return found

    def _import_error(self, error: Exception) -> PartImportError:
        mismatch = core_mismatch(self.distribution)
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if mismatch:
            hint = mismatch
        elif missing:
            hint = f"pip install {missing.partition('.')[0]}, or reinstall {self.distribution}"
        else:
            hint = f"reinstall or remove {self.distribution}; `dovetail plugins --check` tests them all"
        return PartImportError(
            f"{self.kind} part {self.name!r} cannot be imported: {type(error).__name__}: {error}",
            where=[f"{self.distribution} {self.version} ({self.target})"],
            hint=hint,
        )


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every part that is installed, by kind, name and distribution."""
    found: dict[tuple[str, str, str], Entry] = {}
    for distribution in importlib.metadata.distributions():
        if GROUP_PREFIX not in (distribution.read_text("entry_points.txt") or ""):
            continue
        metadata = distribution.metadata  # parsed at each access
        name, version = metadata["Name"], metadata["Version"]
        for point in distribution.entry_points:
            if point.group.startswith(GROUP_PREFIX):
                kind = point.group.removeprefix(GROUP_PREFIX)
                found.setdefault((kind, point.name, name), Entry(kind, point.name, point.value, name, version))
    return tuple(sorted(found.values(), key=lambda entry: (entry.kind, entry.name, entry.distribution)))


def find(kind: str, name: str, *, also: Iterable[str] = ()) -> Entry:
    """The entry of ``name`` or ``name@distribution``.

    Args:
        also: Names that are known besides the installed ones, for near misses.

    Raises:
        PartNotFound: With a near miss, or the extra to install.
        PartClash: Two distributions offer it; both spellings are shown.
    """
    wanted, _, distribution = name.partition("@")
    here = [entry for entry in entries() if entry.kind == kind]
    matches = [entry for entry in here if entry.name == wanted and distribution in ("", entry.distribution)]
    if len(matches) > 1:
        spellings = " or ".join(repr(f"{entry.name}@{entry.distribution}") for entry in matches)
        raise PartClash(f"two distributions offer the {kind} part {wanted!r}", hint=f"write {spellings}")
    if matches:
        return matches[0]
    known = [*(entry.name for entry in here), *also]
    raise PartNotFound(f"no {kind} part is named {name!r}", hint=_way_out(kind, wanted, known))


def _way_out(kind: str, name: str, known: list[str]) -> str:
    near = did_you_mean(name, known)
    if near.startswith("did you mean"):
        return near
    elsewhere = sorted({entry.kind for entry in entries() if entry.name == name})
    if elsewhere:
        return f"{name!r} is installed as a part of kind {', '.join(elsewhere)}, not {kind}"
    extra = extras().get(name.lower())
    if extra:
        return f'pip install "dovetail[{extra}]"'
    return f'{near}; a plugin adds more, for example: pip install "dovetail[{name}]"' if name.isidentifier() else near


@functools.cache
def extras() -> dict[str, str]:
    """Part name to the extra of the ``dovetail`` distribution that installs it, if that one is installed."""
    try:
        names = importlib.metadata.metadata("dovetail").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {name.lower(): name for name in names}


def core_mismatch(distribution: str) -> str:
    """A sentence if the distribution was built for another core than the installed one, else nothing."""
    try:
        installed = importlib.metadata.version("dovetail-core")
        needed = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    for requirement in needed:
        if re.match(r"dovetail-core\b", requirement) and not _satisfies(installed, requirement):
            return (
                f"{distribution} was built for {requirement}, and dovetail-core {installed} is installed: upgrade one"
            )
    return ""


def _satisfies(version: str, requirement: str) -> bool:
    from packaging.requirements import Requirement

    return Requirement(requirement).specifier.contains(version, prereleases=True)
