"""How much memory a process has held at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """Return the most resident bytes of this process so far, mapped files that were read included."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
