"""Is the search worth it? Searched shapes against random search and one width for all, at equal bytes.

    python benchmarks/widths.py DATA OUT --budget 10% --seeds 0 1 2 3 4

DATA is a prepared dataset folder, OUT takes a run folder per contender and seed, and what is there already is
not trained again. All contenders of a seed share its supernet, its validation rows and the bytes of what was
searched; each is chosen on validation, retrained from the same start values, and scored on test rows once.

    search   `slimtab search`: 30 generations of 20
    random   the best of 600 shapes drawn evenly among those that fit: the 20 best of the sample see all rows
    uniform  the best of all shapes of one width: every share of rows, at the widest that fits
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from slimtab.config import RunConfig, load_config
from slimtab.data.loader import Loader
from slimtab.models.base import CTRModel
from slimtab.run import train_run
from slimtab.search.candidates import LEVEL, Candidates, split
from slimtab.search.folder import take_supernet
from slimtab.search.sampler import Genes
from slimtab.searching import SearchSettings, search_run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--budget", default="10%")
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for all runs")
args = parser.parse_args()
TRIALS, FINALISTS = 600, 20


def config(name: str, seed: int, method: str = "optembed") -> RunConfig:
    values = {"data": str(args.data), "run": str(args.out / f"{name}-s{seed}"), "seed": seed}
    budget = {} if method == "full" else {"table.budget": args.budget}
    return load_config(None, {**values, "table.method": method, **budget}, args.set)


def random_shapes(candidates: Candidates, limit: int, seed: int) -> Iterator[Genes]:
    """Yield distinct shapes of at most ``limit`` bytes, as many as the search scores."""
    rng = np.random.default_rng(seed)
    seen: set[tuple[int, ...]] = set()
    space = candidates.space()
    while len(seen) < TRIALS:
        genes = {name: int(rng.integers(gene.low, gene.high + 1)) for name, gene in space.items()}
        key = tuple(genes.values())
        if key not in seen and candidates.nbytes(candidates.shape(genes)) <= limit:
            seen.add(key)
            yield genes


def uniform_shapes(candidates: Candidates, limit: int) -> Iterator[Genes]:
    """Yield for each share of rows the widest shape of one width that fits."""
    space = candidates.space()
    for level in range(space[LEVEL].high + 1):
        for width in range(candidates.table.dim, 0, -1):
            genes = {LEVEL: level, **{name: width for name in space if name != LEVEL}}
            if candidates.nbytes(candidates.shape(genes)) <= limit:
                yield genes
                break


def chooser(name: str, limit: int, seed: int) -> Callable[[CTRModel, str], None]:
    """Return what cuts a supernet to the contender's shape."""

    def choose(model: CTRModel, stage: str) -> None:
        batches = list(Loader(args.data, "valid", 1024, shuffle=False))
        everything = judge = Candidates(model, batches)
        if name == "random":
            sample, others = split(batches)
            some, judge = everything.on(sample), everything.on(others)
            shapes = sorted(random_shapes(some, limit, seed), key=some.auc)[-FINALISTS:]
        else:
            shapes = list(uniform_shapes(everything, limit))
        everything.table.cut_to(everything.shape(max(shapes, key=judge.auc)))

    return choose


rows = []
for seed in args.seeds:
    full = train_run(config("full", seed, "full"))
    searched = search_run(config("search", seed), SearchSettings())
    found = {"search": searched}
    for name in ("random", "uniform"):
        run = config(name, seed)
        if not (Path(run.run) / "config.yaml").exists():
            take_supernet(args.out / f"search-s{seed}", Path(run.run))
        found[name] = train_run(run, choose=chooser(name, searched["serve_bytes"], seed))
    rows.append({name: metrics["test"]["auc"] - full["test"]["auc"] for name, metrics in found.items()})
    print(f"seed {seed}: full {full['test']['auc']:.4f}", end="")
    for name, metrics in found.items():
        share = metrics["serve_bytes"] / metrics["full_bytes"]
        print(f", {name} {rows[-1][name]:+.4f} at {share:.2%}", end="")
    print(flush=True)

for name in rows[0] if len(rows) > 1 else []:
    values = [row[name] for row in rows]
    leads = [row["search"] - row[name] for row in rows]
    print(
        f"{name}: {statistics.mean(values):+.4f} ± {statistics.stdev(values):.4f} against full; "
        f"search leads by {statistics.mean(leads):+.4f} ± {statistics.stdev(leads):.4f}"
    )
