"""Memory of a step is used again by the next."""

import subprocess
import sys

import pytest

from dovetail_trainer.allocator import keep_freed_memory

FAULTS = """
import ctypes, resource, sys
from dovetail_trainer.allocator import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def step():
    blocks = [libc.malloc(30_000_000) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 30_000_000)
    for block in blocks:
        libc.free(block)

if sys.argv[1] == "keep":
    assert keep_freed_memory()
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc's allocator")
def test_freed_memory_is_not_mapped_anew():
    """120 MB are 29,000 pages, and a fault each without it."""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "not")
    )
    assert kept < 1_000 < given_back


def test_what_the_user_has_set_stays(monkeypatch):
    """Their allocator, or their settings of this one."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
