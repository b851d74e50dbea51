"""The contender's side of a timing run: a process that builds one model, then trains when told to.

The driver (interleave.py) and a worker speak in lines:

    worker:  {"ready": "fuxictr 2.3.10", "rss_mb": 812.4}            once, when the model stands
    driver:  step 10
    worker:  {"seconds": 1.93, "steps": 10, "loss": 0.56, "rss_mb": 1630.0}
    driver:  quit

Needs nothing but the standard library, so that it loads under every peer's own interpreter.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

DIM = 16
HIDDEN = (400, 400, 400)
LEARNING_RATE = 1e-3


def arguments(description: str) -> argparse.ArgumentParser:
    """The arguments that all workers take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--ids", type=int, default=500_000, help="ids over all 26 features (default 0.5 M)")
    parser.add_argument("--data", type=Path, help="train on these prepared rows (see rows.py) instead")
    parser.add_argument("--batch", type=int, default=4096, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=64, help="distinct batches to cycle through")
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=HIDDEN, help="widths of the network's layers"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def claim_stdout() -> TextIO:
    """Keep the real standard output for the protocol; whatever else prints goes to standard error.

    Call it before importing a peer: some of them print on import.
    """
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return channel


def peak_rss_mb(process: int | str = "self") -> float:
    """The most memory (MiB) this process has held, or where /proc is, the one with another id."""
    status = Path(f"/proc/{process}/status")
    if status.exists():  # getrusage would count what the parent held before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1024), 1)


def serve(channel: TextIO, label: str, step: Callable[[int], float], batches: int) -> None:
    """Answer the driver until it says `quit`; `step(i)` trains on batch i and returns its loss."""

    def reply(**fields) -> None:
        channel.write(json.dumps(fields) + "\n")
        channel.flush()

    done = 0
    reply(ready=label, rss_mb=peak_rss_mb())
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        if len(words) != 2 or words[0] != "step" or not words[1].isdigit():
            sys.exit(f"expected 'step N' or 'quit', got {line.strip()!r}")
        count = int(words[1])
        loss = float("nan")
        start = time.perf_counter()
        for index in range(done, done + count):
            loss = step(index % batches)
        seconds = time.perf_counter() - start
        done += count
        reply(seconds=seconds, steps=count, loss=loss, rss_mb=peak_rss_mb())
