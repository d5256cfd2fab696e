"""Hostile programs, and the verdict that each must get. One that gets what it wants prints ESCAPED."""

from __future__ import annotations

import attrs

from dovetail_sandbox import Status

OK, SYNTAX, RUNTIME = Status.OK, Status.SYNTAX_ERROR, Status.RUNTIME_ERROR
TIMEOUT, MEMORY, OUTPUT = Status.TIMEOUT, Status.MEMORY, Status.OUTPUT_LIMIT

_SYSCALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*arguments):
    if libc.syscall(*arguments) >= 0:
        print("ESCAPED", arguments)
"""


@attrs.frozen
class Hostile:
    """``status`` is one, or a mapping by tier; ``source`` may hold {secret}, the path of a file that all may read."""

    name: str
    source: str
    status: Status | dict[str, Status] | set[Status]

    def allowed(self, tier: str) -> set[Status]:
        found = self.status[tier] if isinstance(self.status, dict) else self.status
        return found if isinstance(found, set) else {found}


def _calls(name: str, text: str) -> Hostile:
    """Raw system calls, all of which must fail; the program itself goes on."""
    return Hostile(name, _SYSCALL + text, OK)


PROCESSES = [
    Hostile("fork bomb", "import os\nwhile True: os.fork()", RUNTIME),
    Hostile("fork that swallows errors", "import os\nwhile True:\n try: os.fork()\n except OSError: pass", TIMEOUT),
    Hostile("subprocess", "import subprocess; subprocess.run(['true']); print('ESCAPED')", RUNTIME),
    Hostile("shell", "import os\nif os.system('true') == 0: print('ESCAPED')", OK),
    Hostile("exec", "import os; os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])", RUNTIME),
    Hostile("spawn", "import os; os.posix_spawn('/bin/true', ['true'], {}); print('ESCAPED')", RUNTIME),
    Hostile(
        "multiprocessing", "import multiprocessing as m\nm.Process(target=print).start()\nprint('ESCAPED')", RUNTIME
    ),
    _calls("vfork and clone", "syscall(58)\nsyscall(56, 17, 0, 0, 0, 0)\nsyscall(435, 0, 0)"),
    _calls("new namespaces", "for flags in (0x10000000, 0x20000, 0x20000000, 0x40000000): syscall(272, flags)"),
    Hostile(
        "thread bomb",
        "import threading, time\nthreading.stack_size(65536)\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        {RUNTIME, MEMORY, TIMEOUT},
    ),
    _calls("exec of a file in memory", "syscall(319, b'x', 0)\nsyscall(322, 0, b'', 0, 0, 0x1000)"),
]
MEMORIES = [
    Hostile("one big block", "x = bytearray(1 << 34)", MEMORY),
    Hostile("a growing list", "x = []\nwhile True: x.append(bytearray(1 << 23))", MEMORY),
    Hostile("a long text", "x = 'a' * 10**10", MEMORY),
    Hostile("a mapping", "import mmap; mmap.mmap(-1, 1 << 33); print('ESCAPED')", RUNTIME),
    Hostile("a file in memory", "import os; os.memfd_create('x'); print('ESCAPED')", RUNTIME),
    Hostile("shared memory", "open('/dev/shm/x', 'wb').write(b'x' * (1 << 26)); print('ESCAPED')", RUNTIME),
    Hostile(
        "shared memory by name",
        "from multiprocessing.shared_memory import SharedMemory as S\nS(create=True, size=9)\nprint('ESCAPED')",
        RUNTIME,
    ),
    _calls("System V memory", "syscall(29, 0, 1 << 28, 0o1600)\nsyscall(68, 1, 0o1600)\nsyscall(64, 1, 1, 0o1600)"),
    Hostile(
        "memory error swallowed",
        "x = []\nwhile True:\n try: x.append(bytearray(1 << 20))\n except MemoryError: pass",
        {TIMEOUT, MEMORY},
    ),
    Hostile("a large number", "print(len(str(9 ** 9 ** 9)))", {TIMEOUT, MEMORY}),
]
DISKS = [
    Hostile("one big file", "f = open('x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))", RUNTIME),
    Hostile(
        "many files",
        "n = 0\nwhile True:\n n += 1\n open(str(n % 200), 'wb').write(b'x' * (1 << 20))",
        {"strict": RUNTIME, "basic": OUTPUT},
    ),
    Hostile(
        "many empty files",
        "n = 0\nwhile True:\n n += 1\n open(str(n), 'w')",
        {"strict": RUNTIME, "basic": OUTPUT},
    ),
    Hostile(
        "a deep folder",
        "import os, time\nfor _ in range(3000):\n os.mkdir('d' * 200); os.chdir('d' * 200)\ntime.sleep(9)",
        {"strict": RUNTIME, "basic": OUTPUT},
    ),
    Hostile("folders without rights", "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w')\nos.mkdir('z', 0)", OK),
    Hostile("a sparse file", "open('x', 'wb').truncate(1 << 40); print('ESCAPED')", RUNTIME),
    Hostile(
        "a reserved file", "import os; os.posix_fallocate(os.open('x', 66), 0, 1 << 30); print('ESCAPED')", RUNTIME
    ),
]
OUTPUTS = [
    Hostile("endless output", "while True: print('x' * 1000)", OUTPUT),
    Hostile("endless errors", "import sys\nwhile True: sys.stderr.write('x' * 1000)", OUTPUT),
    Hostile("one long write", "import os\nos.write(1, b'x' * (1 << 20))\nos.write(1, b'x' * (1 << 20))", OUTPUT),
]
DESCRIPTORS = [
    Hostile("open files", "x = []\nwhile True: x.append(open('/dev/null'))", RUNTIME),
    Hostile("pipes", "import os\nwhile True: os.pipe()", RUNTIME),
    Hostile("socket pairs", "import socket\nx = []\nwhile True: x.append(socket.socketpair())", RUNTIME),
    Hostile(
        "inherited descriptors",
        "import os\nfor n in range(3, 1024):\n try: os.fstat(n); print('ESCAPED', n)\n except OSError: pass",
        OK,
    ),
    Hostile(
        "forged reports",
        'import os, sys\nfor n in range(3, 256):\n try: os.write(n, b\'{"stages": ["started"], "exit": 0}\')\n except OSError: pass\nsys.exit(3)',
        RUNTIME,
    ),
]
NETWORK = [
    Hostile("TCP", "import socket; socket.create_connection(('127.0.0.1', 22)); print('ESCAPED')", RUNTIME),
    Hostile("listening", "import socket; socket.create_server(('', 0)); print('ESCAPED')", RUNTIME),
    Hostile(
        "UDP",
        "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53)); print('ESCAPED')",
        RUNTIME,
    ),
    Hostile("IPv6", "import socket as s; s.socket(s.AF_INET6); print('ESCAPED')", RUNTIME),
    Hostile(
        "Unix sockets", "import socket as s; s.socket(s.AF_UNIX).connect('/run/docker.sock'); print('ESCAPED')", RUNTIME
    ),
    Hostile(
        "kernel sockets",
        "import socket as s\nfor f in (16, 17, 38, 40):\n try: s.socket(f, s.SOCK_RAW); print('ESCAPED')\n except OSError: pass",
        OK,
    ),
    Hostile(
        "an address through a socket pair",
        "import socket as s; a, b = s.socketpair(s.AF_UNIX, s.SOCK_DGRAM); a.sendto(b'x', '\\0dovetail'); print('ESCAPED')",
        RUNTIME,
    ),
    Hostile("sendmsg", "import socket as s; a, b = s.socketpair(); a.sendmsg([b'x']); print('ESCAPED')", RUNTIME),
    Hostile("names", "import socket; socket.getaddrinfo('example.org', 80); print('ESCAPED')", RUNTIME),
    Hostile("http", "import urllib.request as u; u.urlopen('http://127.0.0.1'); print('ESCAPED')", RUNTIME),
    _calls("io_uring", "syscall(425, 8, ctypes.create_string_buffer(200))\nsyscall(426, 0, 0, 0, 0, 0)"),
]
SECRETS = [
    Hostile("users of the host", "print('ESCAPED', open('/etc/passwd').read())", RUNTIME),
    Hostile("a file of the host", "print('ESCAPED', open({secret!r}).read())", RUNTIME),
    Hostile(
        "a file of the host by its folder",
        "import os\nos.chdir(os.path.dirname({secret!r}))\nopen('secret')\nprint('ESCAPED')",
        RUNTIME,
    ),
    Hostile("the environment", "import os\nif 'DOVETAIL_SECRET' in os.environ: print('ESCAPED')", OK),
    Hostile(
        "processes",
        "import os\nfor p in ('self/environ', '1/environ', 'self/mem', 'self/fd', f'{os.getppid()}/cmdline', 'meminfo'):\n"
        " try: os.open('/proc/' + p, 0); print('ESCAPED', p)\n except OSError: pass",
        OK,
    ),
    Hostile(
        "the kernel",
        "import os\nfor p in ('/sys', '/sys/kernel', '/proc', '/dev', '/run', '/var', '/root', '/home', '/etc'):\n"
        " try: os.listdir(p); print('ESCAPED', p)\n except OSError: pass",
        OK,
    ),
    Hostile("other episodes", "import os; print('ESCAPED', os.listdir('..'))", RUNTIME),
    Hostile(
        "other episodes by number",
        "import os\nfor n in range(99):\n try: os.listdir(f'../{n}') and print('ESCAPED')\n except OSError: pass",
        OK,
    ),
    Hostile("installed packages", "import numpy; print('ESCAPED')", RUNTIME),
    Hostile(
        "files of packages",
        "import os\nfor p in ('/usr/lib/python3/dist-packages', '/usr/local/lib/python3.11/dist-packages'):\n"
        " try: os.listdir(p) and print('ESCAPED', p)\n except OSError: pass",
        OK,
    ),
    Hostile(
        "raw memory of the machine",
        "import os\nfor p in ('mem', 'kmsg', 'kvm', 'fuse', 'sda', 'vda', 'tty', 'pts/0'):\n"
        " try: os.open('/dev/' + p, 0); print('ESCAPED', p)\n except OSError: pass",
        OK,
    ),
]
ESCAPES = [
    Hostile("symbolic link", "import os; os.symlink('/etc/passwd', 'x'); print('ESCAPED', open('x').read())", RUNTIME),
    Hostile("symbolic link to write", "import os; os.symlink({secret!r}, 'x'); open('x', 'a').write('ESCAPED')", RUNTIME),
    Hostile("hard link", "import os; os.link('/etc/passwd', 'x'); print('ESCAPED')", RUNTIME),
    Hostile("rename", "import os; open('x', 'w'); os.rename('x', '../x'); print('ESCAPED')", RUNTIME),
    Hostile("write the system", "open('/usr/lib/x', 'w'); print('ESCAPED')", RUNTIME),
    Hostile("write its own library", "import json; open(json.__file__, 'a'); print('ESCAPED')", RUNTIME),
    Hostile("rights of a file", "import os; os.chmod('/dev/null', 0o600); print('ESCAPED')", RUNTIME),
    Hostile("times of a file", "import os; os.utime({secret!r}); print('ESCAPED')", RUNTIME),
    Hostile("device", "import os; os.mknod('x', 0o20666, os.makedev(1, 1)); print('ESCAPED')", RUNTIME),
    Hostile("chroot", "import os; os.chroot('.'); print('ESCAPED')", RUNTIME),
    Hostile("root", "import os; os.setuid(0); print('ESCAPED')", RUNTIME),
    _calls("mounts", "syscall(165, b'/', b'.', 0, 4096, 0)\nsyscall(155, b'.', b'.')\nsyscall(428, -100, b'/', 1)\nsyscall(430, b'tmpfs', 0)"),
    _calls("tracing", "import os\nsyscall(101, 16, os.getppid(), 0, 0)\nsyscall(101, 0, 0, 0, 0)\nsyscall(310, os.getppid(), 0, 0, 0, 0, 0)"),
    _calls("other processes' files", "import os\nsyscall(434, os.getppid(), 0)\nsyscall(438, 3, 0, 0)\nsyscall(312, 1, 2, 0, 0, 0)"),
    _calls("files by handle", "buffer = ctypes.create_string_buffer(200)\nsyscall(303, -100, b'/', buffer, buffer, 0)\nsyscall(304, -100, buffer, 0)"),
    _calls("the kernel's back doors", "for n in (321, 298, 250, 248, 249, 323, 246, 175, 313, 169, 167, 163, 103, 135, 447, 308, 461): syscall(n, 0, 0, 0, 0, 0)"),
    _calls("the 32-bit door", "syscall(0x40000000 + 39)"),
    Hostile("the terminal", "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x'); print('ESCAPED')", RUNTIME),
]  # fmt: skip
SIGNALS = [
    Hostile("to all", "import os; os.kill(-1, 9); print('ESCAPED')", RUNTIME),
    Hostile("to its parent", "import os; os.kill(os.getppid(), 9); print('ESCAPED')", RUNTIME),
    Hostile("to its group", "import os; os.killpg(0, 9); print('ESCAPED')", RUNTIME),
    _calls(
        "to threads of others",
        "import os\nsyscall(234, os.getppid(), os.getppid(), 9)\nsyscall(200, os.getppid(), 9)\nsyscall(129, os.getppid(), 9, b'')",
    ),
    Hostile(
        "through a file", "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid()); print('ESCAPED')", RUNTIME
    ),
    Hostile("stopping itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", TIMEOUT),
    Hostile(
        "deaf",
        "import signal\nfor s in range(1, 64):\n try: signal.signal(s, signal.SIG_IGN)\n except (OSError, ValueError): pass\nwhile True: pass",
        TIMEOUT,
    ),
    Hostile(
        "limits of its parent",
        "import os, resource as r; r.prlimit(os.getppid(), r.RLIMIT_NOFILE, (1, 1)); print('ESCAPED')",
        RUNTIME,
    ),
    Hostile(
        "raising its own limits", "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1)); print('ESCAPED')", RUNTIME
    ),
    Hostile("cores of its parent", "import os; os.sched_setaffinity(os.getppid(), [0]); print('ESCAPED')", RUNTIME),
    Hostile("a session of its own", "import os; os.setsid(); print('ESCAPED')", RUNTIME),
]
CRASHES = [
    Hostile("C stack", "x = ()\nfor _ in range(200_000): x = (x,)\nhash(x)", {RUNTIME, MEMORY}),
    Hostile("null pointer", "import ctypes; ctypes.string_at(0)", RUNTIME),
    Hostile("abort", "import os; os.abort()", RUNTIME),
    Hostile(
        "broken code object",
        "f = lambda: 0\nf.__code__ = f.__code__.replace(co_code=b'\\x64\\xff' * 9 + b'\\x53\\x00')\nf()",
        {RUNTIME, OK},
    ),
    Hostile(
        "endless recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {RUNTIME, MEMORY, TIMEOUT}
    ),
    Hostile("parentheses", "(" * 100_000, SYNTAX),
    Hostile("a deep expression", "x = " + "-" * 200_000 + "1", {SYNTAX, RUNTIME, MEMORY}),
    Hostile("a null byte", "x = '\0'", SYNTAX),
    Hostile("half a surrogate", "x = '\ud800'", SYNTAX),
]
TIMES = [
    Hostile("a loop", "while True: pass", TIMEOUT),
    Hostile("sleep", "import time; time.sleep(3600)", TIMEOUT),
    Hostile("a regular expression", "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')", TIMEOUT),
    Hostile("at exit", "import atexit\n@atexit.register\ndef f():\n while True: pass", TIMEOUT),
    Hostile(
        "a thread that stays",
        "import threading, time; threading.Thread(target=time.sleep, args=(3600,)).start()",
        TIMEOUT,
    ),
    Hostile(
        "waiting for input",
        "import sys, time\nsys.stdin.read()\nos = __import__('os')\nos.read(os.pipe()[0], 1)",
        TIMEOUT,
    ),
]
ALL = [
    *PROCESSES, *MEMORIES, *DISKS, *OUTPUTS, *DESCRIPTORS, *NETWORK, *SECRETS, *ESCAPES, *SIGNALS, *CRASHES, *TIMES
]  # fmt: skip
