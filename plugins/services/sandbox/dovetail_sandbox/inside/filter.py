"""The seccomp filter: a list of the system calls that a Python program needs; every other one fails.

An allow-list, because system calls that later kernels add must not come through. Sources: seccomp(2), Linux'
``Documentation/userspace-api/seccomp_filter.rst``, ``include/uapi/linux/bpf_common.h``.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEWEST = 467  # beyond it the answer is ENOSYS, so that libraries fall back to an older call
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH = 0, 4

_THREAD, _NAMESPACES = 0x00010000, 0x7E020080
_AF_UNIX = 1
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # isatty, window size, FIONREAD, FIONBIO, FIO(N)CLEX
_OWNER_OF_SIGNALS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: they make the kernel send signals to others
_PRCTLS = (3, 15, 16, 23, 0x53564D41)  # dumpable?, thread name, capability?, name of a mapping

# name: (x86_64, aarch64), None where the architecture has no such call; the most frequent ones first
_PLAIN: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "openat": (257, 56), "newfstatat": (262, 79),
    "futex": (202, 98), "getdents64": (217, 61), "clock_gettime": (228, 113), "exit_group": (231, 94),
    "open": (2, None), "stat": (4, None), "lstat": (6, None), "poll": (7, None), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "access": (21, None), "pipe": (22, None),
    "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216), "msync": (26, 227), "mincore": (27, 232),
    "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101),
    "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "getpid": (39, 172), "sendfile": (40, 71),
    "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209), "exit": (60, 93), "wait4": (61, 260), "uname": (63, 160), "flock": (73, 32),
    "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46), "getdents": (78, None),
    "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None), "mkdir": (83, None),
    "rmdir": (84, None), "unlink": (87, None), "symlink": (88, None), "readlink": (89, None), "umask": (95, 166),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "getppid": (110, 173), "getpgrp": (111, None), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "getpgid": (121, 155), "getsid": (124, 156), "capget": (125, 90),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "getpriority": (140, 141),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "arch_prctl": (158, None), "gettid": (186, 178), "time": (201, None),
    "sched_getaffinity": (204, 123), "epoll_create": (213, None), "set_tid_address": (218, 96),
    "fadvise64": (221, 223), "timer_create": (222, 107), "timer_settime": (223, 110), "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109), "timer_delete": (226, 111), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "epoll_wait": (232, None), "epoll_ctl": (233, 21), "waitid": (247, 95),
    "mkdirat": (258, 34), "unlinkat": (263, 35), "renameat": (264, 38), "symlinkat": (266, 36),
    "readlinkat": (267, 78), "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73),
    "set_robust_list": (273, 99), "epoll_pwait": (281, 22), "fallocate": (285, 47), "eventfd2": (290, 19),
    "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59), "preadv": (295, 69), "pwritev": (296, 70),
    "getcpu": (309, 168), "renameat2": (316, 276), "getrandom": (318, 278), "membarrier": (324, 283),
    "copy_file_range": (326, 285), "preadv2": (327, 286), "pwritev2": (328, 287), "statx": (332, 291),
    "rseq": (334, 293), "close_range": (436, 436), "faccessat2": (439, 439), "epoll_pwait2": (441, 441),
    "futex_waitv": (449, 449),
}  # fmt: skip
_CHECKED: dict[str, tuple[int, int]] = {
    "clone": (56, 220), "clone3": (435, 435), "ioctl": (16, 29), "fcntl": (72, 25), "kill": (62, 129),
    "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261), "socketpair": (53, 199), "sendto": (44, 206),
}  # fmt: skip


def is_supported() -> bool:
    """Whether this filter is written for the machine's architecture."""
    return platform.machine() in _AUDIT_ARCH


@functools.cache
def program(pid: int) -> bytes:
    """The filter for a process of number ``pid``, which may send signals to itself alone."""
    lines = [plain()]
    for name, check in _checks(pid).items():
        lines += _case(_CHECKED[name][_column()], check)
    lines += [_line(_ABOVE, _NEWEST, 0, 1), _fail(errno.ENOSYS), _fail(errno.EPERM)]
    return b"".join(lines)


@functools.cache
def plain() -> bytes:
    """The part that is the same for all processes, made once before they are forked."""
    lines = [_line(_LOAD, _ARCH), _line(_EQUAL, _AUDIT_ARCH[platform.machine()], 1), _line(_RETURN, _KILL)]
    lines += [_line(_LOAD, _NUMBER)]
    for numbers in _PLAIN.values():
        number = numbers[_column()]
        if number is not None:
            lines += _case(number, [_line(_RETURN, _ALLOW)])
    return b"".join(lines)


def _column() -> int:
    return list(_AUDIT_ARCH).index(platform.machine())


def _checks(pid: int) -> dict[str, list[bytes]]:
    """What each of the other calls must look like; each list ends by returning."""
    allow, refuse = _line(_RETURN, _ALLOW), _fail(errno.EPERM)
    only_to_itself = [_argument(0), _line(_EQUAL, pid, 0, 1), allow, refuse]
    return {
        "clone": [  # a thread, and no new namespace
            _argument(0), _line(_ANY_BIT, _NAMESPACES, 0, 1), refuse, _line(_ANY_BIT, _THREAD, 0, 1), allow, refuse,
        ],
        "clone3": [_fail(errno.ENOSYS)],  # its flags lie in memory, where a filter cannot look
        "ioctl": [_argument(1), *_one_of(_IOCTLS), _fail(errno.ENOTTY)],
        "fcntl": [
            _argument(1), *(line for one in _OWNER_OF_SIGNALS for line in (_line(_EQUAL, one, 0, 1), refuse)), allow,
        ],
        "kill": only_to_itself,
        "tgkill": only_to_itself,
        "prctl": [_argument(0), *_one_of(_PRCTLS), refuse],
        "prlimit64": [_argument(0), *_one_of((0, pid)), refuse],
        "socketpair": [_argument(0), *_one_of((_AF_UNIX,)), refuse],  # asyncio wakes its loop by one
        "sendto": [  # to the other end of a pair, never to an address
            _argument(4), _line(_EQUAL, 0, 0, 3), _argument(4, high=True), _line(_EQUAL, 0, 0, 1), allow, refuse,
        ],
    }  # fmt: skip


def _line(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; ``then`` and ``otherwise`` say how many to skip after a comparison."""
    return struct.pack("HBBI", code, then, otherwise, value)


def _fail(number: int) -> bytes:
    return _line(_RETURN, _FAIL | number)


def _argument(index: int, high: bool = False) -> bytes:
    """Load the low (or high) half of an argument of the call."""
    return _line(_LOAD, 16 + 8 * index + 4 * high)


def _case(number: int, body: list[bytes]) -> list[bytes]:
    return [_line(_EQUAL, number, 0, len(body)), *body]


def _one_of(values: tuple[int, ...]) -> list[bytes]:
    return [line for value in values for line in (_line(_EQUAL, value, 0, 1), _line(_RETURN, _ALLOW))]
