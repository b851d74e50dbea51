"""Quality of full, hashed and unified tables at equal serving bytes, on real rows, paired over seeds.

    python benchmarks/quality.py --shared ../shared/data --work /tmp/quality

Finished runs stay in ``--work``: stopped and started again, it goes on. Two runs train side by side, one
thread each. Validation rows decide when a run stops; test rows are scored once per run. Every method at every
budget is tuned over the same grid, on validation logloss of seed 0, before its seeds are run.
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
Setting = tuple[str, ...]
Contender = tuple[str, str | None]  # method, budget


@dataclass(frozen=True)
class Dataset:
    """Real rows, the budgets that matter on them, and what is tuned there for every method alike."""

    name: str
    source: str
    budgets: tuple[str, ...]
    common: Setting
    grid: dict[str, tuple[float, ...]]

    def settings(self) -> list[Setting]:
        """All points of the grid, as ``key=value`` words."""
        points = itertools.product(*self.grid.values())
        return [
            tuple(f"{key}={value}" for key, value in zip(self.grid, point, strict=True)) for point in points
        ]


GRID = {"optimizer.rows_decay": (2, 4)}
DATASETS = (
    Dataset("criteo", "criteo/train_117k.tsv.gz", ("2%",), (), GRID),
    # Every id of sports is seen a handful of times per epoch: rows must move further at each.
    Dataset("sports", "sports", ("50%", "10%"), ("optimizer.rows_lr=0.01",), GRID),
)


class Bench:
    """Runs of one dataset, by contender, setting and seed."""

    def __init__(self, dataset: Dataset, work: Path, pool: ThreadPoolExecutor) -> None:
        self.dataset, self.work, self.pool = dataset, work, pool

    def run(self, contender: Contender, setting: Setting, seed: int) -> dict:
        """Train one run, or read it where it is finished, and return its metrics."""
        method, budget = contender
        words = [method, (budget or "full").strip("%"), *(word.split("=")[1] for word in setting), f"s{seed}"]
        folder = self.work / self.dataset.name / "-".join(words)
        if not (folder / "metrics.json").exists():
            command = [sys.executable, "-m", "slimtab", "train", str(self.work / "data" / self.dataset.name)]
            command += ["--method", method, "--run", str(folder), "--seed", str(seed)]
            command += ["--budget", budget] if budget else []
            command += [*self.dataset.common, *setting, "training.threads=1"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
        return load_runs([folder])[0]

    def all(self, jobs: list[tuple[Contender, Setting, int]]) -> list[dict]:
        """Run jobs two at a time and return their metrics in order."""
        done = self.pool.map(lambda job: self.run(*job), jobs)
        return list(tqdm(done, total=len(jobs), desc=self.dataset.name))

    def tune(self, contenders: list[Contender]) -> dict[Contender, Setting]:
        """Return each contender's point of the grid with the lowest validation logloss at seed 0."""
        settings = self.dataset.settings()
        jobs = [(contender, setting, 0) for contender in contenders for setting in settings]
        runs = dict(zip(jobs, self.all(jobs), strict=True))
        return {
            contender: min(settings, key=lambda s, c=contender: runs[c, s, 0]["valid"]["logloss"])
            for contender in contenders
        }

    def report(self, seeds: int) -> list[str]:
        """Markdown: a line per method and budget, then paired differences."""
        contenders: list[Contender] = [("full", None)]
        contenders += [(m, budget) for budget in self.dataset.budgets for m in ("hash", "unified")]
        tuned = self.tune(contenders)
        jobs = [(contender, tuned[contender], seed) for contender in contenders for seed in range(seeds)]
        runs = self.all(jobs)
        by_contender = {c: runs[i * seeds : (i + 1) * seeds] for i, c in enumerate(contenders)}
        lines = [
            f"## {self.dataset.name}\n",
            "| method | tables | of full | test AUC | test logloss | tuned to | seeds |",
            "|---|--:|--:|--:|--:|---|--:|",
        ]
        for contender, own in by_contender.items():
            share = own[0]["serve_bytes"] / own[0]["full_bytes"]
            auc = [run["test"]["auc"] for run in own]
            loss = [run["test"]["logloss"] for run in own]
            lines.append(
                f"| {contender[0]} | {format_bytes(own[0]['serve_bytes'])} | {share:.1%} "
                f"| {mean(auc):.4f} ± {stdev(auc):.4f} | {mean(loss):.4f} ± {stdev(loss):.4f} "
                f"| {', '.join(word.split('.')[1] for word in tuned[contender])} | {seeds} |"
            )
        lines.append("")
        for budget in self.dataset.budgets:
            unified, hashed = (
                [run["test"]["auc"] for run in by_contender[method, budget]] for method in ("unified", "hash")
            )
            gap = [u - h for u, h in zip(unified, hashed, strict=True)]
            lines.append(
                f"- at {budget}: unified − hash = {mean(gap):+.4f} ± {stdev(gap):.4f} AUC, "
                f"paired over {seeds} seeds (p = {ttest_rel(unified, hashed).pvalue:.2g})"
            )
        return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("/tmp/slimtab-quality"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", nargs="+", default=[dataset.name for dataset in DATASETS])
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    with ThreadPoolExecutor(2) as pool:
        for dataset in DATASETS:
            if dataset.name not in options.datasets:
                continue
            data = options.work / "data" / dataset.name
            prepare(options.shared / dataset.source, data, PrepOptions(kind=dataset.name))
            parts = [
                f"# Quality at equal bytes: {dataset.name}\n",
                f"{datetime.date.today()}. `python benchmarks/{shlex.join(['quality.py', *sys.argv[1:]])}`\n",
                "DeepFM, width 16, default settings"
                + "".join(f", {word}" for word in dataset.common)
                + ". Each method at each budget is tuned over "
                + ", ".join(f"{key} {values}" for key, values in dataset.grid.items())
                + " on validation logloss of seed 0. Mean ± standard deviation over seeds.\n",
                *Bench(dataset, options.work, pool).report(options.seeds),
            ]
            print("\n".join(parts))
            (options.out / f"quality-{dataset.name}.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
