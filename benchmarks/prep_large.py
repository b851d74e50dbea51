"""Does prep stay linear, and within its memory, when rows and tokens are many?

    python benchmarks/prep_large.py --rows 10000000 20000000 --ids 100000000 --max-memory 4GB --work /tmp

Synthetic Criteo rows in files of a million, named as Criteo Terabyte's. Each size is prepared with every
token numbered (`--min-count 1`) by threads, and by two processes; the first size again at the end, as the
machine may have drifted. Peak memory is that of all processes of a prep together, without the pages of files
that are mapped, sampled five times a second.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slimtab.data.synthetic import write_criteo
from slimtab.schema import Schema

FILE_ROWS = 1_000_000


def make(folder: Path, rows: int, ids: int) -> None:
    """Write the files that are not there yet."""
    folder.mkdir(exist_ok=True)
    for day in range(-(-rows // FILE_ROWS)):
        path = folder / f"day_{day}"
        if not path.exists():
            write_criteo(path, min(FILE_ROWS, rows - day * FILE_ROWS), seed=day, ids=ids)


def resident(session: int) -> int:
    """Bytes held by all processes of a session, pages of mapped files left out."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "stat").read_text().rpartition(")")[2].split()[3] == str(session):
                    status = (entry / "status").read_text()
                    total += int(status.split("RssAnon:")[1].split()[0]) * 1024
            except (OSError, IndexError):
                continue
    return total


def prep(source: Path, out: Path, memory: str, workers: int) -> tuple[float, int, int]:
    """Return seconds, peak bytes, and the number of tokens."""
    command = [sys.executable, "-m", "slimtab", "prep", "criteo", str(source), str(out), "--min-count", "1"]
    command += ["--max-memory", memory, "--workers", str(workers)]
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{process.stderr.read() if process.stderr else ''}")
    seconds = time.perf_counter() - began
    tokens = sum(feature.num_ids - 1 for feature in Schema.load(out / "schema.json").features)
    shutil.rmtree(out)
    return seconds, peak, tokens


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 20_000_000])
    parser.add_argument("--ids", type=int, default=100_000_000, help="of the largest vocabulary")
    parser.add_argument("--max-memory", default="4GB")
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        print("| rows | distinct tokens | workers | seconds | rows/s | peak memory, MiB |", flush=True)
        print("|--:|--:|---|--:|--:|--:|", flush=True)
        turns = [(rows, workers) for rows in options.rows for workers in (0, 2)]
        for rows, workers in [*turns, turns[0]]:
            source = work / str(rows)
            make(source, rows, options.ids)
            seconds, peak, tokens = prep(source, work / "out", options.max_memory, workers)
            name = f"{workers} processes" if workers else "threads"
            speed = f"{seconds:.0f} | {rows / seconds:,.0f}"
            print(f"| {rows:,} | {tokens:,} | {name} | {speed} | {peak >> 20:,} |", flush=True)


if __name__ == "__main__":
    main()
