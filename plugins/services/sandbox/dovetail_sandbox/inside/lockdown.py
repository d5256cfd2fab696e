"""Giving up rights, for good: resource limits, Landlock, seccomp, capabilities. Linux only, by system calls.

Sources: landlock(7), seccomp(2), capabilities(7), prctl(2), ``include/uapi/linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Iterable

from dovetail_sandbox.inside import filter

NEW_MOUNTS, NEW_IPC, NEW_PIDS = 0x00020000, 0x08000000, 0x20000000
_PDEATHSIG, _DUMPABLE, _SECCOMP, _DROP_BOUND, _NO_NEW_PRIVILEGES = 1, 4, 22, 24, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CAPSET = {"x86_64": 126, "aarch64": 91}
_READ = 1 << 2 | 1 << 3  # files, folders
_ON_FILES = 1 << 1 | 1 << 2 | 1 << 14
_SPECIAL = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11  # run, make devices, sockets, pipes
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def landlock_version() -> int:
    """The kernel's version of Landlock, 0 if it has none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def restrict_files(read: Iterable[str], write: Iterable[str]) -> None:
    """Allow reading below the paths ``read`` and writing below ``write``, nothing else, and no TCP port.

    Paths that do not exist are left out. Where the kernel knows how, signals and abstract sockets of processes outside
    are out of reach as well.
    """
    version = landlock_version()
    handled = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    handled |= 1 << 15 if version >= 5 else 0
    fields = [handled, *([3] if version >= 4 else []), *([3] if version >= 6 else [])]
    rules = _checked(_libc.syscall(_CREATE_RULESET, *_packed("Q" * len(fields), *fields), 0), "Landlock's rules")
    for paths, wanted in ((read, _READ), (write, handled & ~_SPECIAL)):
        for path in paths:
            _allow(rules, path, wanted & handled)
    _never_again()
    _checked(_libc.syscall(_RESTRICT_SELF, rules, 0), "Landlock")
    os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        access &= _ON_FILES
    rule = ctypes.create_string_buffer(struct.pack("=Qi", access, place))
    _checked(_libc.syscall(_ADD_RULE, rules, 1, rule, 0), f"Landlock's rule for {path}")
    os.close(place)


def _packed(layout: str, *values: int) -> tuple[ctypes.Array[ctypes.c_char], ctypes.c_size_t]:
    data = struct.pack(layout, *values)
    return ctypes.create_string_buffer(data, len(data)), ctypes.c_size_t(len(data))


def restrict_calls() -> None:
    """Install the seccomp filter. The process may then neither start others nor open sockets."""
    code = filter.program(os.getpid())
    text = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(text)))
    _never_again()
    _checked(_libc.prctl(_SECCOMP, 2, header, 0, 0), "seccomp")


def _never_again() -> None:
    _checked(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")


def limit(memory: int, cpu_seconds: int, file_bytes: int, threads: int) -> None:
    """Limit address space, processor time, the size of a file, descriptors, and the threads of this user."""
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_NPROC, threads, threads),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        ceiling = resource.getrlimit(what)[1]
        allowed = hard if ceiling == resource.RLIM_INFINITY else min(hard, ceiling)
        resource.setrlimit(what, (min(soft, allowed), allowed))


def drop_capabilities() -> None:
    """All of them, also those that a program could get back."""
    number = _CAPSET[os.uname().machine]
    capability = 0
    while _libc.prctl(_DROP_BOUND, capability, 0, 0, 0) == 0:  # it fails past the last one that the kernel knows
        capability += 1
    header, nothing = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0)), ctypes.create_string_buffer(24)
    _checked(_libc.syscall(number, header, nothing), "capset")


def die_with_parent() -> None:
    """SIGKILL when the process that forked this one ends; and no core dump, no tracing by its equals."""
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(_DUMPABLE, 0, 0, 0, 0)


def new_process_numbers() -> None:
    """The next child is the first process of a namespace of its own."""
    here = os.pidfd_open(os.getpid())
    _checked(_libc.setns(here, NEW_PIDS), "setns")  # back from the namespace of the child before
    os.close(here)
    _checked(_libc.unshare(NEW_PIDS), "unshare")


def new_folder(path: str, size: int, entries: int) -> None:
    """An empty file system in memory over ``path``, which nobody else sees; also a System V IPC of its own."""
    _checked(_libc.unshare(NEW_MOUNTS | NEW_IPC), "unshare")
    options = f"size={size},nr_inodes={entries},mode=0700".encode()
    _checked(_libc.mount(b"tmpfs", path.encode(), b"tmpfs", 6, options), "mount")  # nosuid, nodev
