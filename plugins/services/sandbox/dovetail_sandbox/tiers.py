"""Which tiers work on this machine, found out by trying them; and why another one does not."""

from __future__ import annotations

import functools
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Literal

import attrs

from dovetail.errors import UserError
from dovetail_sandbox import interpreter
from dovetail_sandbox.inside import filter
from dovetail_sandbox.results import Limits, Status
from dovetail_sandbox.server import SandboxFailure, Server, finish

Tier = Literal["strict", "basic", "none"]
CONFINED: tuple[Tier, ...] = ("strict", "basic")
_INSTALL = "bwrap is not installed (apt install bubblewrap, or dnf install bubblewrap)"

# It says what it could do and should not. A file that it could make where it should not has no name, and is gone.
_PROBE = """
import os, socket
could = []
def trying(what, function):
    try:
        function()
        could.append(what)
    except OSError:
        pass
trying("open a socket", socket.socket)
trying("start a process", os.fork)
trying("signal another process", lambda: os.kill(os.getppid() or 1, 0))
for path in ("/etc/passwd", "/proc/self/environ", "/sys/kernel", "/root", "/home"):
    trying(f"read {path}", lambda: os.open(path, os.O_RDONLY))
for path in ("/tmp", "/dev/shm", "/usr", ".."):
    trying(f"write to {path}", lambda: os.open(path, os.O_WRONLY | os.O_TMPFILE))
open("mine", "w").write("fine")
print(open("mine").read(), *could, sep="\\n")
"""


@attrs.frozen
class Found:
    """Whether a tier works here. ``why`` says what it rests on, or what it lacks."""

    tier: Tier
    works: bool
    why: str


@functools.cache
def probe(tier: Tier, python: str | None = None) -> Found:
    """Try a tier: run a program in it that attempts to get out."""
    if reason := _missing(tier):
        return Found(tier, False, reason)
    try:
        found = interpreter.find(python)
        server = Server(tier, found)
    except (LookupError, SandboxFailure, OSError) as error:
        return Found(tier, False, str(error))
    try:
        source = "print('fine')" if tier == "none" else _PROBE
        ((result, _),) = finish(server.start({"mode": "program", "source": source, "seed": 0}, Limits(seconds=20)))
    finally:
        server.close()
    if result.status != Status.OK:
        return Found(tier, False, f"{result.status}: {result.reason} {result.stderr[-200:]}".strip())
    could = result.stdout.splitlines()[1:]
    if could:
        return Found(tier, False, f"a confined program could {', '.join(could)}")
    return Found(tier, True, f"{_rests_on(tier)}; Python {found.version} at {found.path}")


def _missing(tier: Tier) -> str:
    if sys.platform != "linux":
        return f"it needs Linux, and this is {platform.system()}; run it in a container"
    if tier == "none":
        return ""
    if not filter.is_supported():
        return f"its list of system calls is not written for {platform.machine()}"
    if tier == "strict":
        return "" if shutil.which("bwrap") else _INSTALL
    from dovetail_sandbox.inside.lockdown import landlock_version

    return "" if landlock_version() else "the kernel has no Landlock (Linux 5.13 or later, with landlock in lsm=)"


def _rests_on(tier: Tier) -> str:
    from dovetail_sandbox.inside.lockdown import landlock_version

    if tier == "none":
        return "no confinement, only limits of time and memory"
    user = "user nobody" if interpreter.unprivileged() is not None else "our own user"
    version = landlock_version()
    walls = [f"Landlock {version}"] if version else []
    walls += ["seccomp", user]
    if tier == "strict":
        said = subprocess.run(["bwrap", "--version"], capture_output=True, text=True).stdout.split()
        walls.insert(0, f"bubblewrap {said[-1]}")
    return ", ".join(walls)


def choose(wanted: Literal["auto", "strict", "basic", "none"], python: str | None = None) -> Found:
    """The tier to use: the wanted one, or with ``auto`` the first of strict and basic that works.

    Raises:
        UserError: It does not work here. It is never replaced by a lower one.
    """
    tried = []
    for found in (probe(tier, python) for tier in (CONFINED if wanted == "auto" else (wanted,)) if tier in _ALL):
        tried.append(found)
        if found.works:
            return found
    hint = "look at `dovetail info`; for code that you trust as your own, the tier 'none' confines nothing"
    where = [f"{found.tier}: {found.why}" for found in tried]
    what = "no sandbox works on this machine" if wanted == "auto" else f"the sandbox tier {wanted!r} does not work here"
    raise UserError(what, where=where, hint=hint)


_ALL = (*CONFINED, "none")


def facts() -> Mapping[str, str]:
    """For ``dovetail info``."""
    found = [probe(tier) for tier in CONFINED]
    best = next((one.tier for one in found if one.works), "none works")
    return {"sandbox": best, **{f"sandbox {one.tier}": ("" if one.works else "no: ") + one.why for one in found}}
