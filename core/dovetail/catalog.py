"""Discovery: entry points are the manifest. Listing reads metadata only and imports nothing."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable
from typing import Any, NamedTuple

from dovetail.errors import PartClash, PartImportError, PartNotFound, UserError, did_you_mean

GROUP_PREFIX = "dovetail."


class Entry(NamedTuple):
    """One line of the manifest: a part that a distribution offers."""

    kind: str
    name: str
    target: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import the part. Whatever its module raises becomes a PartImportError with the step that mends it."""
        try:
            return importlib.metadata.EntryPoint(self.name, self.target, GROUP_PREFIX + self.kind).load()
        except Exception as error:  # whatever a plugin raises on import, the user needs to know whose it is
            if isinstance(error, ModuleNotFoundError) and error.name:
                step = f"pip install {error.name.partition('.')[0]}, or reinstall {self.distribution}"
            else:
                step = f"reinstall or remove {self.distribution}; `dovetail plugins --check` tests them all"
            raise PartImportError(
                f"{self.kind} part {self.name!r} cannot be imported: {type(error).__name__}: {error}",
                where=[f"{self.distribution} {self.version} ({self.target})"],
                hint=core_mismatch(self.distribution) or step,
            ) from error


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
    return tuple(found[key] for key in sorted(found))


def find(kind: str, name: str, *, also: Iterable[str] = ()) -> Entry:
    """The entry of ``name`` or ``name@distribution``; ``also`` are names known besides, for near misses.

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
    if not matches:
        known = [*(entry.name for entry in here), *also]
        raise PartNotFound(f"no {kind} part is named {name!r}", hint=_way_out(kind, wanted, known))
    return matches[0]


def service(group: str, name: str, problem: str, hint: str = "") -> Any:
    """What a distribution of ours gives to the core under a group of its own; a UserError if it is not installed."""
    try:
        return find(group, name).load()
    except PartNotFound as error:
        raise UserError(f"{problem} is not installed", hint=f'pip install "dovetail[{name}]"{hint}') from error


def _way_out(kind: str, name: str, known: list[str]) -> str:
    near = did_you_mean(name, known)
    if near.startswith("did you mean"):
        return near
    if elsewhere := sorted({entry.kind for entry in entries() if entry.name == name}):
        return f"{name!r} is installed as a part of kind {', '.join(elsewhere)}, not {kind}"
    if extra := extras().get(name.lower()):
        return (
            f'pip install "dovetail[{extra}]"; in a checkout: pip install -c constraints.txt -c local.txt ".[{extra}]"'
        )
    return f"{near}; plugins add more, each an extra of the distribution dovetail"


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
    from packaging.requirements import Requirement

    try:
        core = importlib.metadata.version("dovetail-core")
        needed = [need for need in importlib.metadata.requires(distribution) or [] if need.startswith("dovetail-core")]
    except importlib.metadata.PackageNotFoundError:
        return ""
    if all(Requirement(need).specifier.contains(core, prereleases=True) for need in needed):
        return ""
    return f"{distribution} was built for {', '.join(needed)}, and dovetail-core {core} is installed: upgrade one"
