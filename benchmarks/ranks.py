"""How memory, traffic and time of a rank grow with ids, rows of a batch, and ranks.

    python benchmarks/ranks.py        adds to benchmarks/results/distributed.md

Ranks of one machine, full tables spread over them, rows of Criteo's shape made from a seed. Memory is a
rank's own (PSS) beyond what it had before its tables; traffic is what the loopback device counted, divided by
steps and ranks; time is processor time of a rank, since ranks here share cores.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import workload
from serving import write

DIM, STEPS = 16, 20
RANKS, IDS, BATCHES = (1, 2, 4), (1_000_000, 2_000_000, 4_000_000), (2048, 4096, 8192)
MIDDLE = (2, 2_000_000, 4096)


def rank(ids: int, batch: int) -> None:
    """Train a little as one rank that torchrun started; the first prints what it took, as JSON."""
    import torch
    import torch.distributed as dist

    from distributed import Slimtab
    from slimtab.batch import Batch
    from slimtab.config import build_config
    from slimtab.schema import Feature
    from slimtab.training.allocator import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo")
    own, ranks = dist.get_rank(), dist.get_world_size()
    names = tuple(f"C{number}" for number in range(1, workload.FEATURES + 1))
    features = [Feature(name, size) for name, size in zip(names, workload.sizes(ids), strict=True)]
    # Only the fields that are read here: the columns.
    schema = SimpleNamespace(features=features, numerics=[None] * workload.DENSE)
    made = workload.batches(ids, STEPS + 3, batch)
    shares = [
        Batch(dense[own::ranks], names, rows[own::ranks], label[own::ranks], whole=batch)
        for rows, dense, label in zip(*map(torch.from_numpy, made), strict=True)
    ]
    before = _own_memory()
    config = build_config(
        {
            "optimizer": {"rows": "rowwise_adagrad"},
            "ranks": {"shard_from": 0},
            "training": {"batch_size": batch},
        }
    )
    trainer = Slimtab(schema, "full", None, config, STEPS)
    for share in shares[:3]:
        trainer.step(share)
    dist.barrier()
    sent, began = _loopback_bytes(), time.process_time()
    for share in shares[3:]:
        trainer.step(share)
    took = time.process_time() - began
    dist.barrier()
    figures = torch.tensor([_own_memory() - before, took / STEPS], dtype=torch.float64)
    dist.all_reduce(figures)
    if own == 0:
        weights = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        print(
            json.dumps(
                {
                    "memory": figures[0].item() / ranks,
                    "traffic": (_loopback_bytes() - sent) / STEPS / ranks,
                    "ms": 1000 * figures[1].item() / ranks,
                    "weights": weights,
                }
            )
        )
    dist.destroy_process_group()


def row(ranks: int, ids: int, batch: int) -> str:
    """Measure one setting in processes of its own, and return its line of the table."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    found = subprocess.run(
        [sys.executable, *command, __file__, "--ids", str(ids), "--batch", str(batch)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout
    figures = json.loads(found.strip().splitlines()[-1])
    memory = 4 * ids * (DIM + 1) / ranks
    others = (ranks - 1) / ranks
    traffic = others * batch / ranks * workload.FEATURES * (8 + 8 * DIM) + 2 * others * 4 * figures["weights"]
    return (
        f"| {ranks} | {ids:,} | {batch:,} | {figures['memory'] / 2**20:.0f} | {memory / 2**20:.0f} "
        f"| {figures['traffic'] / 1e6:.2f} | {traffic / 1e6:.2f} | {figures['ms']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, help="of the tables; given by torchrun's ranks alone")
    parser.add_argument("--batch", type=int)
    options = parser.parse_args()
    if options.ids is not None:
        rank(options.ids, options.batch)
        return
    ranks, ids, batch = MIDDLE
    settings = [(count, ids, batch) for count in RANKS]
    settings += [(ranks, count, batch) for count in IDS if count != ids]
    settings += [(ranks, ids, rows) for rows in BATCHES if rows != batch]
    lines = [
        "## What grows with what\n",
        f"{datetime.date.today()}, `python benchmarks/ranks.py`: full tables, width {DIM}, per rank.",
        "Beside what was measured stands what [the page on sizing](../../docs/scale.md#sizing) says: memory",
        "of rows and accumulators, and traffic at most (every id another, and the network's gradients).\n",
        "| ranks | ids | rows of a batch | memory, MiB | rows alone | MB a step | at most | processor ms |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for setting in settings:
        lines.append(row(*setting))
        print(lines[-1], file=sys.stderr, flush=True)
    write("\n".join(lines), "distributed.md")


def _own_memory() -> int:
    """Return this process's share of memory, in bytes: pages that several map count in part."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel does not tell a process's share of memory")


def _loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split()[1])
    raise SystemExit("there is no loopback device")


if __name__ == "__main__":
    main()
