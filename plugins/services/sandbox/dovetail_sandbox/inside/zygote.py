"""The fork server. It is started once, confined from outside, and forks a monitor for each run.

The monitor makes the surroundings of the run, forks the confined process, waits for it under a deadline, and reports.
It holds no secret, and nothing of a run gets into the server itself.
"""

from __future__ import annotations

import array
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from dovetail_sandbox.inside import filter, folders, lockdown, programs

# Forked along, so that programs need not load them. Nothing here reads a file or starts a thread when imported.
_WARM = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib",
    "heapq", "io", "itertools", "math", "operator", "re", "statistics", "string", "textwrap", "typing",
)  # fmt: skip
_GLANCE = 0.05  # seconds between two looks at the folder of a run
_CONFINED = 2  # the number of a run's confined process in its own namespace
_FILES = ("request", "stdin", "stdout", "stderr", "report", "channel")


def main(descriptor: int, tier: str, folder: str, readable: list[str], visible: list[str]) -> None:
    """Serve until the other side closes. ``folder`` is where runs work; below ``readable`` lies what they may read.

    ``visible`` holds the folders above those, without that of the runs.
    """
    if tier == "strict":
        filter.program(_CONFINED)
    elif tier == "basic":
        filter.plain()
    if tier == "basic":
        lockdown.restrict_files(readable, [folder, "/dev/null"])
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    control.send(b"!")
    number, cold = 0, list(_WARM)
    while True:
        _load_while_idle(control, cold)
        files = _received(control)
        if not files:
            return
        number += 1
        if tier == "strict":
            lockdown.new_process_numbers()
        if os.fork() == 0:
            try:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                Monitor(files, tier, folder if tier == "strict" else f"{folder}/{number}", visible).run()
            finally:
                os._exit(1)
        for file in files.values():
            os.close(file)


def _load_while_idle(control: socket.socket, names: list[str]) -> None:
    """Load modules until a run is waiting; it loads what it needs itself, and the rest is loaded beside it."""
    if not names:
        return
    while names and not select.select([control], [], [], 0)[0]:
        __import__(names.pop(0))
    gc.freeze()  # or every run would copy the pages of all objects, as soon as it collects garbage


def _received(control: socket.socket) -> dict[str, int]:
    """The descriptors of the next run; none at the end."""
    message, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(4 * len(_FILES)))
    found = array.array("i")
    for _, _, data in ancillary:
        found.frombytes(data)
    return dict(zip(_FILES, found)) if message else {}  # noqa: B905 - an old interpreter


class Monitor:
    """One run, seen from just outside of it."""

    def __init__(self, files: dict[str, int], tier: str, folder: str, visible: list[str]) -> None:
        self._files, self._tier, self._folder, self._visible = files, tier, folder, visible
        with open(files["request"], "rb") as file:
            self._request: dict[str, Any] = json.load(file)
        self._note, self._note_in = os.pipe()

    def run(self) -> None:
        """Never returns."""
        report: dict[str, Any] = {"stages": []}
        try:
            limits = self._request["limits"]
            lockdown.die_with_parent()
            if self._tier == "strict":
                lockdown.new_folder(self._folder, limits["disk"], limits["files"])
            else:
                os.mkdir(self._folder, 0o700)
            os.chdir(self._folder)
            started = time.monotonic()
            child = os.fork()
            if child == 0:
                self._confined()
            for name in ("stdin", "stdout", "stderr", "channel"):
                if name in self._files:
                    os.close(self._files[name])
            os.close(self._note_in)
            report = self._watched(child, started, limits)
        except Exception as error:
            report["problem"] = f"{type(error).__name__}: {error}"
        try:
            if self._tier != "strict":
                os.chdir("/")
                folders.remove(self._folder)
        finally:
            os.write(self._files["report"], json.dumps(report).encode())
            os._exit(0)

    def _watched(self, child: int, started: float, limits: dict[str, Any]) -> dict[str, Any]:
        """Wait until the child ends, the deadline is over, the folder is too big, or the caller hangs up."""
        why = None
        process = os.pidfd_open(child)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(self._files["report"], select.POLLIN)
        while True:
            left = limits["seconds"] - (time.monotonic() - started)
            glance = left if self._tier == "strict" else min(left, _GLANCE)
            ready = [file for file, _ in poll.poll(max(0, glance * 1e3))]
            if process in ready:
                break
            if ready:
                why = "cancelled"
            elif left <= 0:
                why = "timeout"
            elif self._tier != "strict" and folders.is_fuller(self._folder, limits["disk"], limits["files"]):
                why = "disk"
            if why:
                os.kill(child, signal.SIGKILL)
                break
        _, status, usage = os.wait4(child, 0)
        stages = self._read_note().decode().splitlines()
        return {
            "stages": stages[:2],
            "ended": why,
            "exit": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
            "cpu": usage.ru_utime + usage.ru_stime,
            "memory": usage.ru_maxrss * 1024,
            "verdict": json.loads(stages[2]) if len(stages) > 2 else None,
        }

    def _read_note(self) -> bytes:
        """What the child said while it was still ours."""
        note = b""
        while piece := os.read(self._note, 1 << 16):
            note += piece
        return note

    def _confined(self) -> None:
        """Give up all rights, then work. Never returns."""
        status = 1
        try:
            files, limits = self._files, self._request["limits"]
            places = [files["stdin"], files["stdout"], files["stderr"], files.get("channel", files["stdin"])]
            high = [os.dup2(file, 100 + place) for place, file in enumerate([*places, self._note_in])]
            for place, file in enumerate(high):
                os.dup2(file, place)
            os.closerange(5, 1024)
            if "channel" not in files:
                os.close(programs.CHANNEL)
            lockdown.die_with_parent()
            lockdown.limit(limits["memory"], limits["cpu"], limits["file"], limits["threads"])
            if self._tier == "strict":
                lockdown.drop_capabilities()
            if self._tier != "none":
                if lockdown.landlock_version():
                    lockdown.restrict_files(self._visible, [self._folder, "/dev/null"])
                lockdown.restrict_calls()
            for name in [name for name in sys.modules if name.startswith("dovetail_sandbox")]:
                del sys.modules[name]
            request, self._request = self._request, {}
            status = programs.work(request)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
