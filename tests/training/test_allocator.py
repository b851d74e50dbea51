"""Freed memory stays with the process: seen from the kernel's own count of page faults."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from slimtab.training.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
def step():
    return torch.zeros(16, 1 << 20).add_(1)
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_steps_stop_faulting():
    """Steps of 64 MiB fault on every page every time, or only until the heap has settled."""
    lost = faults(keep=False)
    assert lost > 200  # a few per step even where the kernel gives huge pages
    assert faults(keep=True) < lost / 2
