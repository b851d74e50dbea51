"""Rows per second of `slimtab prep` beside FuxiCTR's and TorchRec's preprocessing, and its peak memory.

    python benchmarks/prep.py --fuxictr-python benchmarks/peers/.venv-fuxictr/bin/python --rounds 3

All contenders read the same synthetic Criteo rows (C columns with up to 10 M distinct ids) and take turns,
A B C A B C …; a ratio is taken inside one round. Each is a process of its own that reports the seconds from
after its imports until the last file is written. The peers get their input in the form they want it
beforehand, off the clock: FuxiCTR needs three CSV files with a header. TorchRec additionally needs iopath
(`--torchrec-python` names an interpreter that has both).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from slimtab.data.synthetic import write_criteo

HERE = Path(__file__).resolve().parent
SLIMTAB = """
import json, sys, time
from pathlib import Path
from slimtab.data.prepare import PrepOptions, prepare
start = time.perf_counter()
prepare(Path(sys.argv[1]), Path(sys.argv[2]), PrepOptions("criteo"), progress=False)
seconds = time.perf_counter() - start
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(json.dumps({"seconds": seconds, "peak_kib": int(peak)}))
"""


def run(command: list[str], raw: Path, work: Path) -> dict[str, Any]:
    """Run a contender in an empty folder and return what it reported."""
    out = work / "out"
    process = subprocess.run([*command, str(raw), str(out)], capture_output=True, text=True, check=False)
    shutil.rmtree(out, ignore_errors=True)
    if process.returncode:
        sys.exit(f"{' '.join(command[:2])} failed:\n{process.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return report


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description="Time prep in turns with its peers.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--memory-rows", type=int, default=10_000_000, help="rows of the large file; 0 leaves it out"
    )
    parser.add_argument(
        "--fuxictr-python", help="interpreter that has fuxictr; without it FuxiCTR is left out"
    )
    parser.add_argument(
        "--torchrec-python", default=sys.executable, help="interpreter that has torchrec and iopath"
    )
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    options = parser.parse_args()

    contenders = {"slimtab": [sys.executable, "-c", SLIMTAB]}
    if options.fuxictr_python:
        contenders["fuxictr"] = [options.fuxictr_python, str(HERE / "peers" / "prep_fuxictr.py")]
    contenders["torchrec"] = [options.torchrec_python, str(HERE / "peers" / "prep_torchrec.py")]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        raw = work / "rows.tsv"
        write_criteo(raw, options.rows)
        reports: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for number in range(1, options.rounds + 1):
            for name, command in contenders.items():
                reports[name].append(run(command, raw, work))
                print(f"round {number}: {name} {reports[name][-1]['seconds']:.1f} s", file=sys.stderr)
        print_speed(reports, options.rows)
        if options.memory_rows:
            large = work / "large.tsv"
            write_criteo(large, options.memory_rows)
            print_memory(
                reports["slimtab"], options.rows, run(contenders["slimtab"], large, work), options.memory_rows
            )


def print_speed(reports: dict[str, list[dict[str, Any]]], rows: int) -> None:
    """Print a line for each contender."""
    own = [report["seconds"] for report in reports["slimtab"]]
    print("| contender | seconds, median | min–max | rows/s | time / slimtab, median | min–max |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, found in reports.items():
        seconds = [report["seconds"] for report in found]
        ratios = [theirs / ours for theirs, ours in zip(seconds, own, strict=True)]
        spread, ratio_spread = (
            f"{min(seconds):.1f}–{max(seconds):.1f}",
            f"{min(ratios):.1f}–{max(ratios):.1f}",
        )
        rate = f"{rows / median(seconds):,.0f}"
        print(
            f"| {name} | {median(seconds):.1f} | {spread} | {rate} | {median(ratios):.1f} | {ratio_spread} |"
        )


def print_memory(small: list[dict[str, Any]], rows: int, large: dict[str, Any], large_rows: int) -> None:
    """Print peak memory at both sizes."""
    base = median(report["peak_kib"] for report in small)
    print("\n| rows | peak memory, MiB | ratio | seconds |")
    print("|--:|--:|--:|--:|")
    print(f"| {rows:,} | {base / 1024:,.0f} | 1.00 | {median(report['seconds'] for report in small):.1f} |")
    peak = large["peak_kib"]
    print(f"| {large_rows:,} | {peak / 1024:,.0f} | {peak / base:.2f} | {large['seconds']:.1f} |")


if __name__ == "__main__":
    main()
