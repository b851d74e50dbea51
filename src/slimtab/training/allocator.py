"""Keep freed memory inside the process, so that no step fetches its pages from the kernel anew."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Numbers of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Tell glibc's allocator not to hand freed blocks below 1 GiB back to the kernel; elsewhere do nothing.

    Every step allocates and frees the same few tens of megabytes. Left alone, glibc returns them whenever
    they happen to lie at the end of its heap, and the next step pays for thousands of page faults: a tenth
    of a step for ``unified`` (benchmarks/results/train.md). For programs that train; a library must not
    decide this on import.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
