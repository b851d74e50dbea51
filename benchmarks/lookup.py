"""Frozen lookups of every registered method, in turns within one process, against the full table's.

    python benchmarks/lookup.py                       all methods at 25 %, writes benchmarks/results/lookup.md
    python benchmarks/lookup.py --methods hash unified --rounds 1
    NUMBA_DISABLE_JIT=1 python benchmarks/lookup.py       the same in torch's own operations

A lookup is one batch of 4096 × 26 ids: the frozen table, and its projection where it has one. Where a lookup
costs so much that slimtab makes ids distinct for it, that is done here too. `embedding` is torch's own
F.embedding over rows that are known beforehand. A method that fails is named, and the others go on.
"""

import argparse
import datetime
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

import registry
import workload
from slimtab import kernels
from slimtab.collection import TableCollection
from slimtab.serving.lookup import in_turns
from slimtab.tables.base import FrozenTable, get_method
from slimtab.tables.fitted.row_steps import FrozenRowSteps, pack_rows
from slimtab.tables.parts.distinct import distinct
from worker import DIM

HERE = Path(__file__).resolve().parent


@dataclass
class Contender:
    """Something that looks ids up; ``look(i)`` takes batch i."""

    name: str
    kind: str
    nbytes: int
    look: Callable[[int], torch.Tensor]
    seconds: list[float] = field(default_factory=list)


def frozen(method: str, ids: int, budget: str, counts: dict) -> FrozenTable:
    """A method's table as it is served: through all its stages, on the weights it starts with."""
    torch.manual_seed(0)
    nbytes = registry.nbytes(method, ids, DIM, budget)
    table = TableCollection.build(registry.features(ids), DIM, method, nbytes, counts=counts).table
    for stage in table.stages[1:]:
        table.choose(stage)
        table.set_stage(stage)
    return table.eval().freeze()


def lookup(table: FrozenTable, ids: torch.Tensor, keys: torch.Tensor) -> Callable[[int], torch.Tensor]:
    """``ids`` [count, batch, 26]; ``keys``, of the same shape, number every feature's ids differently."""
    count, batch, columns = ids.shape
    slot = torch.arange(columns).repeat(batch)
    flat, flat_keys = ids.reshape(count, -1), keys.reshape(count, -1)

    def look(index: int) -> torch.Tensor:
        if table.costly:
            each = distinct(flat_keys[index])
            vectors = each.expand(table(flat[index][each.places], slot[each.places]))
        else:
            vectors = table(flat[index], slot)
        return table.project(vectors.view(batch, columns, -1))

    return look


def contenders(options: argparse.Namespace, failures: dict[str, str]) -> list[Contender]:
    """Tables built and warmed up; what fails on the way goes to ``failures``."""
    made = workload.batches(options.ids, options.batches)[0]
    ids = torch.from_numpy(made[:, : options.rows])
    offset = torch.tensor([0, *workload.sizes(options.ids)][:-1]).cumsum(0)
    keys = ids + offset
    weight = 0.01 * torch.randn(options.ids, DIM)
    rows = keys.reshape(len(keys), -1)
    found = [
        Contender("embedding", "torch", 4 * weight.numel(), lambda index: F.embedding(rows[index], weight))
    ]
    counts = registry.counts(made, registry.features(options.ids))
    for method in registry.chosen(options.methods):
        try:
            table = frozen(method, options.ids, options.budget, counts)
            kind, look = get_method(method).kind, lookup(table, ids, keys)
            contender = Contender(method, kind, table.serve_bytes(), look)
            for index in range(len(ids)):
                contender.look(index)
        except Exception as error:  # whatever a method does wrong must not hide the others
            failures[method] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            found.append(contender)
        print(f"{method}: {failures.get(method, 'built')}", file=sys.stderr)
    for bits in (2, 4, 8):
        table = shrunk(bits, options.ids, offset)
        found.append(Contender(f"int{bits}", "slimtab shrink", table.serve_bytes(), lookup(table, ids, keys)))
    return found


def shrunk(bits: int, ids: int, offset: torch.Tensor) -> FrozenTable:
    """What ``slimtab shrink --method int4`` makes of a trained table, of random numbers."""
    codes = torch.randint(1 << bits, (ids, DIM), dtype=torch.uint8)
    return FrozenRowSteps(bits, DIM, pack_rows(codes, bits), torch.rand(ids, 2).half(), offset)


def measure(found: list[Contender], options: argparse.Namespace) -> list[Contender]:
    """Let the contenders take turns; each has its rounds' median seconds per call then."""
    seconds = in_turns(
        [lambda call, look=contender.look: look(call % options.batches) for contender in found],
        options.rounds,
        options.calls,
    )
    for contender, times in zip(found, seconds, strict=True):
        contender.seconds = times
    return found


def markdown(found: list[Contender], ids: int) -> str:
    """A line per contender, the fastest first; ratios are taken within a round."""
    full, plain = (next(c for c in found if c.name == name) for name in ("full", "embedding"))
    lines = [
        "| method | class | of full | ms per lookup, median | min–max | time / full, median | min–max "
        "| time / embedding, median |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for contender in sorted(found, key=lambda contender: median(contender.seconds)):
        times = [1000 * seconds for seconds in contender.seconds]
        ratios, plainly = (
            [own / other for own, other in zip(contender.seconds, reference.seconds, strict=True)]
            for reference in (full, plain)
        )
        lines.append(
            f"| {contender.name} | {contender.kind} | {contender.nbytes / (4 * DIM * ids):.1%} "
            f"| {median(times):.3g} | {min(times):.3g}–{max(times):.3g} | {median(ratios):.2f} "
            f"| {min(ratios):.2f}–{max(ratios):.2f} | {median(plainly):.2f} |"
        )
    return "\n".join(lines)


def _loops() -> str:
    return f"numba {version('numba')}" if kernels.installed() else "no compiled loops"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["all"], help="names, or all (default)")
    parser.add_argument("--budget", default="25%", help="for those that can reach it (default 25%%)")
    parser.add_argument("--ids", type=int, default=500_000)
    parser.add_argument(
        "--rows", type=int, default=workload.BATCH, help="rows of a batch (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=10, help="timed lookups per turn")
    parser.add_argument("--batches", type=int, default=16, help="distinct batches to cycle through")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "lookup.md")
    options = parser.parse_args()
    torch.set_num_threads(max(options.threads))
    failures: dict[str, str] = {}
    parts = [
        "# Frozen lookups\n",
        f"{datetime.date.today()}, {os.cpu_count()} cores, torch {torch.__version__}, {_loops()}.",
        f"`python benchmarks/{shlex.join(['lookup.py', *sys.argv[1:]])}`\n",
        f"One lookup is {options.rows} × {workload.FEATURES} ids of {options.ids:,}, width {DIM}, at",
        f"{options.budget} of the full table's bytes, or the least a method can make of them. Contenders",
        "take turns in one process; ratios are taken within a round. `embedding` is F.embedding over row",
        "numbers known beforehand, as others read a full table.\n",
    ]
    with torch.inference_mode():
        found = contenders(options, failures)
        for threads in options.threads:
            torch.set_num_threads(threads)
            table = markdown(measure(found, options), options.ids)
            parts += [f"## {threads} thread{'s' * (threads > 1)}\n", table + "\n"]
    if failures:
        parts += ["Failed:\n", *(f"- {name}: {reason}" for name, reason in failures.items()), ""]
    text = "\n".join(parts)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
