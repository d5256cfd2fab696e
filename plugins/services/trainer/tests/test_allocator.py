"""Memory of a step is used again by the next."""

import subprocess
import sys

import pytest

from dovetail_trainer.allocator import keep_freed_memory

FAULTS = """
import resource, torch
from dovetail_trainer.allocator import keep_freed_memory

def step():
    return sum(float(torch.ones(5_000_000 - n).sum()) for n in range(4))

kept = keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc's allocator")
def test_freed_memory_is_not_mapped_anew():
    """Twenty tensors of 20 MB are 100,000 pages; a few faults are anybody's."""
    kept, faults = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    ).stdout.split()
    assert kept == "True"
    assert int(faults) < 5_000


def test_what_the_user_has_set_stays(monkeypatch):
    """Their allocator, or their settings of this one."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
