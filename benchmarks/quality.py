"""Quality of full, hashed and unified tables at equal serving bytes, on real rows, paired over seeds.

    python benchmarks/quality.py --shared ../shared/data --work /tmp/quality

Runs are kept in ``--work``: stopped and started again, it goes on. Two runs train side by side, one thread
each, so a run's bits do not depend on what runs beside it. Validation rows decide when each run stops; test
rows are scored once per run. Hash and unified are each tuned over the same grid of decay and learning rate, on
validation logloss of seed 0, before the seeds are run.
"""

import argparse
import datetime
import itertools
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import ttest_rel
from tqdm import tqdm

from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.reporting.compare import load_runs
from slimtab.sizes import format_bytes

HERE = Path(__file__).resolve().parent
GRID = {"optimizer.rows_decay": (2, 4, 8), "optimizer.rows_lr": (0.001, 0.003)}


@dataclass(frozen=True)
class Dataset:
    """Real rows, the budgets that matter on them, and settings shared by all methods."""

    name: str
    kind: str
    source: str
    budgets: tuple[str, ...]
    settings: tuple[str, ...]


DATASETS = (
    Dataset("criteo", "criteo", "criteo/train_117k.tsv.gz", ("2%",), ()),
    Dataset("sports", "sports", "sports", ("50%", "10%"), ("model.options.mlp=[256,128]",)),
)


class Bench:
    """Runs of one dataset, by setting and seed."""

    def __init__(self, dataset: Dataset, work: Path, pool: ThreadPoolExecutor) -> None:
        self.dataset, self.work, self.pool = dataset, work, pool

    def run(self, method: str, budget: str | None, seed: int, tuned: tuple[str, ...]) -> dict:
        """Train one run, or read it where it is finished, and return its metrics."""
        label = "-".join(
            [method, (budget or "full").strip("%"), *(t.split("=")[1] for t in tuned), f"s{seed}"]
        )
        folder = self.work / self.dataset.name / label
        if not (folder / "metrics.json").exists():
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "slimtab",
                "train",
                str(self.work / "data" / self.dataset.name),
            ]
            command += ["--method", method, "--run", str(folder), "--seed", str(seed)]
            command += ["--budget", budget] if budget else []
            command += [*self.dataset.settings, *tuned, "training.threads=1"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
        return load_runs([folder])[0]

    def all(self, jobs: list[tuple]) -> list[dict]:
        """Run jobs two at a time, in order."""
        return list(
            tqdm(self.pool.map(lambda job: self.run(*job), jobs), total=len(jobs), desc=self.dataset.name)
        )

    def tune(self, method: str, budget: str | None) -> tuple[str, ...]:
        """Return the grid's setting with the lowest validation logloss at seed 0."""
        settings = [
            tuple(f"{key}={value}" for key, value in zip(GRID, values, strict=True))
            for values in itertools.product(*GRID.values())
        ]
        runs = self.all([(method, budget, 0, tuned) for tuned in settings])
        return min(zip(runs, settings, strict=True), key=lambda pair: pair[0]["valid"]["logloss"])[1]


def report(bench: Bench, seeds: int) -> list[str]:
    """Markdown of one dataset: a line per method and budget, and paired differences."""
    lines = [
        f"## {bench.dataset.name}\n",
        "| method | tables | of full | test AUC | test logloss | tuned to | seeds |",
        "|---|--:|--:|--:|--:|---|--:|",
    ]
    differences = []
    full = bench.tune("full", None)
    contenders = [("full", None, full)]
    for budget in bench.dataset.budgets:
        contenders += [(method, budget, bench.tune(method, budget)) for method in ("hash", "unified")]
    results = {}
    for method, budget, tuned in contenders:
        runs = bench.all([(method, budget, seed, tuned) for seed in range(seeds)])
        results[method, budget] = aucs = [run["test"]["auc"] for run in runs]
        losses = [run["test"]["logloss"] for run in runs]
        lines.append(
            f"| {method} | {format_bytes(runs[0]['serve_bytes'])} | {runs[0]['serve_bytes'] / runs[0]['full_bytes']:.1%} "
            f"| {mean(aucs):.4f} ± {stdev(aucs):.4f} | {mean(losses):.4f} ± {stdev(losses):.4f} "
            f"| {', '.join(t.split('.')[1] for t in tuned)} | {seeds} |"
        )
        print(lines[-1], flush=True)
    for budget in bench.dataset.budgets:
        a, b = results["unified", budget], results["hash", budget]
        gap = [x - y for x, y in zip(a, b, strict=True)]
        differences.append(
            f"- at {budget}: unified − hash = {mean(gap):+.4f} ± {stdev(gap):.4f} AUC, paired over {seeds} seeds "
            f"(p = {ttest_rel(a, b).pvalue:.2g})"
        )
        print(differences[-1], flush=True)
    return [*lines, "", *differences, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("/tmp/slimtab-quality"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", nargs="+", default=[dataset.name for dataset in DATASETS])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "quality.md")
    options = parser.parse_args()
    parts = [
        "# Quality at equal bytes\n",
        f"{datetime.date.today()}. `python benchmarks/{shlex.join([Path(__file__).name, *sys.argv[1:]])}`\n",
        "DeepFM, width 16. Criteo: 117,548 rows, first 80 % training, next 10 % validation, last 10 % test, in time order. "
        "Sports: last item of a user test, the one before validation. Every method is tuned over the same grid "
        f"({', '.join(f'{key.split(".")[1]} {values}' for key, values in GRID.items())}) on validation logloss of seed 0; "
        "everything else is the default"
        + "".join(f", and for {d.name} {' '.join(d.settings)}" for d in DATASETS if d.settings)
        + ". Mean ± standard deviation over seeds.\n",
    ]
    with ThreadPoolExecutor(2) as pool:
        for dataset in DATASETS:
            if dataset.name in options.datasets:
                prepare(
                    options.shared / dataset.source,
                    options.work / "data" / dataset.name,
                    PrepOptions(kind=dataset.kind),
                )
                parts += report(Bench(dataset, options.work, pool), options.seeds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
