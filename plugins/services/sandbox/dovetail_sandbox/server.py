"""The fork server, seen from outside: starting it in its tier, sending it runs, collecting what comes out."""

from __future__ import annotations

import array
import contextlib
import functools
import importlib.resources
import json
import marshal
import os
import select
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from dovetail_sandbox.inside import folders
from dovetail_sandbox.interpreter import Interpreter, identity, unprivileged
from dovetail_sandbox.results import Limits, Result, cut, read_report

_MODULES = ("values", "filter", "folders", "lockdown", "tester", "programs", "zygote")
_BOOT = """
import marshal, sys, types
sys.path[:] = [path for path in sys.path if path]
order = marshal.load(sys.stdin.buffer)
for name, code in order["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    exec(code, module.__dict__)
sys.modules["dovetail_sandbox.inside.zygote"].main(*order["arguments"])
"""
_START_SECONDS, _GRACE_SECONDS = 30.0, 5.0
_THREADS = 1024  # more than the user has when the server starts
_BOX = "/box"
_ENVIRONMENT = {"PATH": "/usr/bin", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": _BOX}


class SandboxFailure(Exception):
    """The sandbox itself does not work; the message says why."""


class Server:
    """A fork server in a tier. It serves one caller at a time."""

    def __init__(self, tier: str, interpreter: Interpreter) -> None:
        self._tier, self._folder = tier, ""
        self._threads = _THREADS + _threads_of(unprivileged() or os.getuid())
        self._control, theirs = socket.socketpair()
        command = [interpreter.path, "-s", "-S", "-B", "-X", "utf8", "-c", _BOOT]
        if tier == "strict":
            folder, command = _BOX, [*_bubblewrap(interpreter), *command]
        else:
            folder = self._folder = _work_folder()
        arguments = [theirs.fileno(), tier, folder, interpreter.readable, interpreter.visible]
        try:
            modules = _compiled() if interpreter.is_like_ours else _sources()
            with theirs, _temporary(marshal.dumps({"modules": modules, "arguments": arguments}, 4)) as order:
                # In a session of its own it is spared the Ctrl-C of the terminal.
                self._process = subprocess.Popen(
                    command, stdin=order, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_ENVIRONMENT, cwd="/",
                    pass_fds=[theirs.fileno()], start_new_session=True, **identity(),
                )  # fmt: skip
        except BaseException:
            self._control.close()
            self._remove_folder()
            raise
        self._control.settimeout(_START_SECONDS)
        try:
            if self._control.recv(1) == b"!":
                return
        except OSError:
            pass
        raise SandboxFailure(self._last_words())

    def _last_words(self) -> str:
        self._end()
        assert self._process.stderr is not None
        with self._process.stderr as errors:
            said = errors.read().decode("utf-8", "replace").strip().splitlines()
        return said[-1] if said else f"it ended with code {self._process.returncode}"

    def start(self, request: Mapping[str, Any], limits: Limits, stdin: bytes = b"", channel: int | None = None) -> Run:
        """Start a run; ``channel`` is a descriptor that it gets, and that the caller closes.

        Raises:
            OSError: The server is gone.
        """
        return Run(self._control, {**request, "limits": limits.told(self._threads)}, limits, stdin, channel)

    def close(self) -> None:
        """End the server, with every run. May be called twice."""
        self._end()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _end(self) -> None:
        self._control.close()
        if not self._has_ended():
            self.kill()
        self._remove_folder()

    def _has_ended(self) -> bool:
        """Wait for it, as long as it is given; ``Popen.wait`` would look at ever longer intervals."""
        if self._process.poll() is None:
            process = os.pidfd_open(self._process.pid)
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(_GRACE_SECONDS * 1e3)
            os.close(process)
        return self._process.poll() is not None

    def _remove_folder(self) -> None:
        if self._folder:
            with contextlib.suppress(OSError):  # of a folder that is gone already
                folders.remove(self._folder)

    def kill(self) -> None:
        """SIGKILL it and all that it has started."""
        # bubblewrap's child is the first process of its namespace, which ends with it, and bubblewrap itself reaps it.
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        if self._tier != "strict":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if not self._has_ended():
            self._process.kill()
            self._process.wait()


class Run:
    """A run on its way."""

    def __init__(
        self, control: socket.socket, request: Mapping[str, Any], limits: Limits, stdin: bytes, channel: int | None
    ) -> None:
        self.limits = limits
        self.until = time.monotonic() + limits.seconds + _GRACE_SECONDS
        self.report, theirs = socket.socketpair()
        self.pieces: dict[int, list[bytes]] = {}
        with contextlib.ExitStack() as stack, theirs:
            files = [stack.enter_context(_temporary(data)) for data in (json.dumps(request).encode(), stdin)]
            for _ in ("stdout", "stderr"):
                reader, writer = os.pipe()
                stack.callback(os.close, writer)
                self.pieces[reader] = []
                files.append(writer)
            files += [theirs.fileno(), *([] if channel is None else [channel])]
            try:
                sent = array.array("i", files)
                control.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
            except OSError:
                self.close()
                raise
        self.told = b""
        self.is_too_long = False

    def read(self, reader: int) -> bool:
        """Take what has come from one of its files; False at the end of it."""
        if reader == self.report.fileno():
            try:
                piece = self.report.recv(1 << 16)
            except ConnectionResetError:  # it ended before it had read that we cancelled it
                return False
            self.told += piece
            return bool(piece)
        piece = os.read(reader, 1 << 16)
        if sum(map(len, self.pieces[reader])) <= self.limits.output:
            self.pieces[reader].append(piece)
        elif piece and not self.is_too_long:
            self.is_too_long = True
            self.cancel()
        return bool(piece)

    def cancel(self) -> None:
        """Ask the monitor to kill the process; it still reports."""
        with contextlib.suppress(OSError):
            self.report.send(b"!")

    def close(self) -> None:
        self.report.close()
        for reader in self.pieces:
            os.close(reader)

    def result(self) -> tuple[Result, Any]:
        """What came of it, and the verdict, if it was one of tests."""
        report = json.loads(self.told) if self.told else None
        status, reason = read_report(report, self.is_too_long)
        stdout, stderr = (cut(pieces, self.limits.output) for pieces in self.pieces.values())
        known = report or {}
        result = Result(
            status, reason, stdout, stderr, known.get("exit"),
            known.get("seconds", 0.0), known.get("cpu", 0.0), known.get("memory", 0),
        )  # fmt: skip
        return result, known.get("verdict")


def finish(*runs: Run) -> list[tuple[Result, Any]]:
    """Read from all of them until they have ended."""
    with selectors.DefaultSelector() as selector:
        for run in runs:
            for reader in (run.report.fileno(), *run.pieces):
                selector.register(reader, selectors.EVENT_READ, run)
        try:
            # Their monitors keep the deadlines; past them with some grace something is wrong with the monitors.
            until = max(run.until for run in runs)
            while selector.get_map() and (left := until - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    if not key.data.read(key.fd):
                        selector.unregister(key.fd)
        finally:
            for run in runs:
                run.close()
    return [run.result() for run in runs]


@functools.cache
def _sources() -> list[tuple[str, str]]:
    """The modules that run inside, as text, in the order in which they import each other."""
    inside = importlib.resources.files("dovetail_sandbox.inside")
    names = [(f"dovetail_sandbox.inside.{name}", (inside / f"{name}.py").read_text("utf-8")) for name in _MODULES]
    return [("dovetail_sandbox", ""), ("dovetail_sandbox.inside", ""), *names]


@functools.cache
def _compiled() -> list[tuple[str, CodeType]]:
    """The same as code, for an interpreter that reads ours."""
    return [(name, compile(text, name, "exec")) for name, text in _sources()]


@contextlib.contextmanager
def _temporary(data: bytes) -> Iterator[int]:
    """A descriptor that reads ``data`` and cannot be written."""
    import fcntl

    file = os.memfd_create("dovetail", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(data)
        os.lseek(file, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        yield file
    finally:
        os.close(file)


def _work_folder() -> str:
    folder = tempfile.mkdtemp(prefix="dovetail-sandbox-")
    user = unprivileged()
    if user is not None:
        os.chown(folder, user, user)
    return folder


def _threads_of(user: int) -> int:
    """How many threads a user has now; RLIMIT_NPROC counts them all."""
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _bubblewrap(interpreter: Interpreter) -> Sequence[str]:
    command = ["bwrap", "--unshare-all", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--new-session"]
    command += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP", "--clearenv"]
    for name, value in _ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for path in interpreter.mounted:
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for path in interpreter.masked:
        command += ["--tmpfs", path]
    for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        command += ["--dev-bind", path, path]
    return [*command, "--dir", _BOX, "--remount-ro", "/", "--chdir", _BOX, "--"]
