"""Rows per second that the loader delivers on one core, and what another shard format would make of it.

    taskset -c 1 python benchmarks/loader.py --rows 2000000 --rounds 5

Contenders take turns in one process of one thread. Each round is timed by two clocks: CPU seconds (with
system time), which other processes on the core inflate less, and wall seconds. Figures are medians with the
slowest and fastest round. An unmeasured round has brought the files into the page cache.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from slimtab.data.loader import BLOCK_ROWS, Loader, _Block
from slimtab.testing import fake_dataset, fake_schema

BATCH = 4096


class ParquetShard:
    """The rows of an Arrow shard, kept as Parquet with one row group per block."""

    def __init__(self, arrow: Path, compression: str) -> None:
        self.path = arrow.with_suffix(f".{compression}.parquet")
        table = pa.ipc.open_file(pa.memory_map(str(arrow))).read_all()
        pq.write_table(table, self.path, compression=compression, row_group_size=BLOCK_ROWS)
        self._file = pq.ParquetFile(self.path, memory_map=True)
        groups = range(self._file.num_row_groups)
        self.batch_rows = [self._file.metadata.row_group(group).num_rows for group in groups]

    def read(self, number: int) -> pa.RecordBatch:
        return self._file.read_row_group(number, use_threads=False).combine_chunks().to_batches()[0]


def parquet_loader(folder: Path, compression: str, shuffle: bool) -> tuple[Loader, int]:
    loader = Loader(folder, "train", BATCH, shuffle=shuffle)
    shards = [ParquetShard(path, compression) for path in sorted((folder / "train").glob("*.arrow"))]
    loader._blocks = [
        _Block(shard, number, 0, rows) for shard in shards for number, rows in enumerate(shard.batch_rows)
    ]
    return loader, sum(shard.path.stat().st_size for shard in shards)


def one_epoch(loader: Loader) -> int:
    return sum(batch.size for batch in loader)


def bare_step(rounds: int = 10) -> int:
    """Train the dense part of DeepFM alone, width 16, 400x3: no training step is faster than this."""
    widths = [26 * 16 + 13, 400, 400, 400]
    layers = [layer for a, b in pairwise(widths) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(400, 1))
    optimizer = torch.optim.Adam(network.parameters())
    rows, label = torch.randn(BATCH, widths[0]), torch.rand(BATCH, 1).round()
    for _ in range(rounds):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(rows), label).backward()
        optimizer.step()
    return rounds * BATCH


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Rows per CPU second and per wall second."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = work()
    return rows / (time.process_time() - cpu), rows / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fake_dataset(folder, fake_schema([1_000_000] * 26, numerics=13), {"train": args.rows})
        gc.collect()
        arrow = sum(path.stat().st_size for path in folder.glob("train/*.arrow"))
        plain, plain_bytes = parquet_loader(folder, "none", shuffle=True)
        packed, packed_bytes = parquet_loader(folder, "zstd", shuffle=True)
        plain_in_order, _ = parquet_loader(folder, "none", shuffle=False)
        shuffled = Loader(folder, "train", BATCH, shuffle=True)
        in_order = Loader(folder, "train", BATCH, shuffle=False)
        contenders = {
            "Arrow IPC, shuffled": (lambda: one_epoch(shuffled), arrow),
            "Arrow IPC, in order": (lambda: one_epoch(in_order), arrow),
            "Parquet uncompressed, shuffled": (lambda: one_epoch(plain), plain_bytes),
            "Parquet uncompressed, in order": (lambda: one_epoch(plain_in_order), plain_bytes),
            "Parquet zstd, shuffled": (lambda: one_epoch(packed), packed_bytes),
            "dense part of a DeepFM step alone": (bare_step, 0),
        }
        figures: dict[str, list[tuple[float, float]]] = {label: [] for label in contenders}
        for turn in tqdm(range(args.rounds + 1), disable=None):
            for label, (measure, _) in contenders.items():
                rates = timed(measure)
                if turn:
                    figures[label].append(rates)
        print(f"{platform.processor() or platform.machine()}, one core, {args.rows:,} rows, batch {BATCH}")
        print("| | clock | rows/s, median | slowest | fastest | bytes per row |\n|---|---|---|---|---|---|")
        for label, pairs in figures.items():
            size = f"{contenders[label][1] / args.rows:.0f}" if contenders[label][1] else ""
            for clock, rates in zip(("CPU", "wall"), zip(*pairs, strict=True), strict=True):
                shown = " | ".join(
                    f"{rate:,.0f}" for rate in (statistics.median(rates), min(rates), max(rates))
                )
                print(f"| {label} | {clock} | {shown} | {size} |")


if __name__ == "__main__":
    main()
