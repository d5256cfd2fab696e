"""Which Python runs inside, as whom, and which files it needs."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

_NOBODY = 65534
_ASK = """
import importlib.util, json, sys, sysconfig
print(json.dumps([
    sys.version_info[:3], sys.base_prefix, sysconfig.get_path("stdlib"), sys.executable,
    importlib.util.MAGIC_NUMBER.hex()
]))
"""
_OLDEST = (3, 9)
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_SMALL = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_PACKAGES = ("site-packages", "dist-packages")


@attrs.frozen
class Interpreter:
    """A Python that the unprivileged user can run, and what it reads: its standard library, no installed package."""

    path: str
    version: str
    prefix: str
    library: str  #: folder of the standard library
    is_like_ours: bool  #: whether it can run what our own interpreter has compiled

    @property
    def _libraries(self) -> list[str]:
        folders = [*_SYSTEM, f"{self.prefix}/lib", f"{self.prefix}/lib64"]
        return list(dict.fromkeys(folder for folder in folders if os.path.isdir(folder)))

    @property
    def readable(self) -> list[str]:
        """Every file and folder that it needs, one by one, so that installed packages stay out."""
        shared = [entry.path for folder in self._libraries for entry in _entries(folder) if entry.name[:6] != "python"]
        own = [entry.path for entry in _entries(self.library) if entry.name not in _PACKAGES]
        return [self.path, *shared, *own, *_SMALL, *_DEVICES]

    @property
    def visible(self) -> list[str]:
        """Few folders that hold all of :attr:`readable`."""
        return [self.path, *self._libraries, *_SMALL, *_DEVICES]

    @property
    def mounted(self) -> list[str]:
        """What a root file system for it is made of; links stay links."""
        inner = [path for path in (*self._libraries, self.path) if not _is_below(path, "/usr/lib", "/usr/lib64")]
        outer = [path for path in ("/usr/lib", "/usr/lib64") if os.path.isdir(path)]
        return [*outer, *inner, *(path for path in _SMALL if os.path.exists(path))]

    @property
    def masked(self) -> list[str]:
        """Folders of installed packages within :attr:`mounted`."""
        found = {
            path.resolve()
            for lib in self._libraries
            for name in _PACKAGES
            for path in Path(lib).glob(f"python*/{name}")
        }
        return sorted(map(str, found))


def _is_below(path: str, *folders: str) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _entries(folder: str) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []


def unprivileged() -> int | None:
    """The user to become: nobody, if we are root; None if we are a usual user and stay who we are."""
    return _NOBODY if os.getuid() == 0 else None


def identity() -> dict[str, Any]:
    """As whom programs run, in the words of subprocess.Popen."""
    user = unprivileged()
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


@functools.cache
def find(wanted: str | None) -> Interpreter:
    """The first that works of ``wanted``, or of our own and the system's.

    Raises:
        LookupError: None does; the message says why.
    """
    own = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    reasons = []
    for path in [wanted] if wanted else [own, "/usr/bin/python3", "/usr/local/bin/python3"]:
        try:
            return _examined(os.path.realpath(path))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reasons.append(f"{path}: {error}")
    raise LookupError("; ".join(reasons))


def _examined(path: str) -> Interpreter:
    done = subprocess.run(
        [path, "-I", "-S", "-c", _ASK], capture_output=True, cwd="/", env={}, timeout=30, check=True, **identity()
    )
    version, prefix, library, executable, magic = json.loads(done.stdout)
    if tuple(version) < _OLDEST:
        raise ValueError(f"it is Python {version[0]}.{version[1]}, and 3.9 is the oldest that will do")
    is_like_ours = magic == importlib.util.MAGIC_NUMBER.hex()
    return Interpreter(os.path.realpath(executable), ".".join(map(str, version)), prefix, library, is_like_ours)
