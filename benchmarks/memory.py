"""Peak memory of training tables of 10 M ids × 16, each in a process of its own.

    python benchmarks/memory.py                     writes benchmarks/results/memory.md

A process builds one table and takes three steps of 4096 × 26 ids; its peak is the kernel's own count, less
that of a process which only imports.
"""

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

import worker

HERE = Path(__file__).resolve().parent
IDS, DIM, LOOKUPS = 10_000_000, 16, 4096 * 26
METHODS = ("full", "int8", "int16", "alpt", "retraining")


def train(method: str) -> None:
    """Build the table of ``method`` ("none": nothing), train it a little, print the peak in MiB."""
    import torch

    from slimtab.collection import TableCollection
    from slimtab.config import OptimizerSettings
    from slimtab.schema import Feature
    from slimtab.tables.base import Clock, EmbeddingTable
    from slimtab.tables.parts.bitmap import pack_bitmap
    from slimtab.tables.parts.cut import CutRows
    from slimtab.training.optimizers import Optimizers, fused_rows

    if method != "none":
        settings = OptimizerSettings()
        rows = fused_rows(settings, steps_per_epoch=1000)
        if method == "retraining":
            table = CutRows([IDS], [IDS // 4], [DIM], DIM, rows)
            table.words, table.ranks = pack_bitmap(torch.arange(IDS) % 4 == 0)
        else:
            table = TableCollection.build([Feature("id", IDS)], DIM, method, make_rows=rows).table
        optimizers = Optimizers(torch.nn.ModuleList([table, torch.nn.Linear(1, 1)]), settings, 1000)
        slot = torch.zeros(LOOKUPS, dtype=torch.int64)
        for step in range(3):
            if isinstance(table, EmbeddingTable):
                table.on_step(Clock(step, 1000, 1000))
            optimizers.zero_grad()
            table(torch.randint(0, IDS, (LOOKUPS,)), slot).square().sum().backward()
            optimizers.step()
    print(worker.peak_rss_mb())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", help="measure this one alone, in this process")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "memory.md")
    options = parser.parse_args()
    if options.method:
        train(options.method)
        return
    peaks = {}
    for method in ("none", *METHODS):
        command = [sys.executable, __file__, "--method", method]
        peaks[method] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    lines = [
        "# Memory while training\n",
        f"{datetime.date.today()}. `python benchmarks/memory.py`\n",
        f"One table of {IDS:,} ids × {DIM}, three training steps; peak resident memory less that of the",
        f"imports ({peaks['none']:.0f} MiB). Float values alone are {4 * IDS * DIM / 2**20:.0f} MiB.\n",
        "| table | MiB | of full |",
        "|---|--:|--:|",
    ]
    for method in METHODS:
        own = peaks[method] - peaks["none"]
        lines.append(f"| {method} | {own:,.0f} | {own / (peaks['full'] - peaks['none']):.0%} |")
    lines += [
        "",
        "`full` holds Adam's two moments beside each value. `retraining` is the last stage of `optembed`,",
        "where a quarter of the rows was kept. A process that comes from the supernet has held that before,",
        "which is as large as `full`; one that resumes in the last stage never does.",
    ]
    text = "\n".join(lines) + "\n"
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
