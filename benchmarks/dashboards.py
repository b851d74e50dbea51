"""What dashboards cost: whole runs with them and without, in turns.

A run without them neither measures norms and out-of-vocabulary rates, nor asks the table for figures, nor
writes anything for TensorBoard. Both are compared by processor time, which other work on the machine changes
far less than the time on the clock. Runs with dashboards also add up the time spent in each of their parts.

    python benchmarks/dashboards.py data/criteo
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from unittest.mock import patch

from slimtab import run
from slimtab.config import build_config
from slimtab.reporting.tensorboard import TensorBoard
from slimtab.training import trainer
from slimtab.training.observer import Observer

PARTS = {  # what a person sees of it, where it is called
    "health figures": (trainer, "health_figures", {}),
    "table's figures by feature": (run, "feature_figures", {}),
    "outcome": (run, "write_outcome", None),
    "projector": (run, "write_projector", None),
    "points of a step": (TensorBoard, "on_log", None),
    "points of a validation": (TensorBoard, "on_validation", None),
}


def train(data: str, method: str, epochs: int, dashboards: bool) -> tuple[float, dict[str, float]]:
    """Return the processor seconds of a run, and those of each part of its dashboards."""
    folder = Path(tempfile.mkdtemp())
    seconds = defaultdict(float)

    def timed(part, call):
        def wrapper(*arguments):
            begun = time.process_time()
            try:
                return call(*arguments)
            finally:
                seconds[part] += time.process_time() - begun

        return wrapper

    settings = {
        "data": data,
        "run": str(folder / "run"),
        "table": {"method": method, "budget": None if method == "full" else "10%"},
        "training": {"epochs": epochs, "threads": 1},
    }
    with ExitStack() as stack:
        for part, (place, name, nothing) in PARTS.items():
            call = timed(part, getattr(place, name)) if dashboards else lambda *_, nothing=nothing: nothing
            stack.enter_context(patch.object(place, name, call))
        if not dashboards:
            stack.enter_context(patch.object(run, "TensorBoard", lambda *_: Observer()))
        stack.enter_context(patch.object(run, "ProgressBar", Observer))
        begun = time.process_time()
        run.train_run(build_config(settings))
        total = time.process_time() - begun
    shutil.rmtree(folder)
    return total, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Time runs with and without dashboards, in turns.")
    parser.add_argument("data", help="a dataset folder that slimtab prep made")
    parser.add_argument("--methods", nargs="+", default=["full", "unified", "rq"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    print("| method | with / without, median | min–max | in their parts, of the run | largest parts |")
    print("|---|--:|--:|--:|---|")
    for method in options.methods:
        ratios, shares, parts = [], [], defaultdict(list)
        train(options.data, method, 1, True)  # imports, and files that are not cached yet
        for number in range(options.rounds):
            order = (True, False) if number % 2 else (False, True)  # neither always goes first
            taken = {
                dashboards: train(options.data, method, options.epochs, dashboards) for dashboards in order
            }
            total, seconds = taken[True]
            ratios.append(total / taken[False][0])
            shares.append(sum(seconds.values()) / total)
            for part, value in seconds.items():
                parts[part].append(value / total)
            print(f"{method} {number + 1}/{options.rounds}: {ratios[-1]:.3f}", file=sys.stderr)
        largest = sorted(((median(values), part) for part, values in parts.items()), reverse=True)[:3]
        cells = [
            method,
            f"{median(ratios):.3f}",
            f"{min(ratios):.3f}–{max(ratios):.3f}",
            f"{100 * median(shares):.1f} %",
            ", ".join(f"{part} {100 * share:.1f} %" for share, part in largest),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
