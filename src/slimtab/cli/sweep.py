"""``slimtab sweep``: settings to vary in; runs, a table and plots of what is worth it out."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtab.cli.render import columns
from slimtab.errors import SlimtabError

if TYPE_CHECKING:
    from optuna.study import Study

    from slimtab.sweep.settings import SweepConfig

HELP = "vary any settings in an Optuna study; resumes when stopped, and takes more processes at any time"
EXAMPLE = "slimtab sweep sweep.yaml -o sweeps/a --jobs 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "sweep", type=Path, metavar="FILE", help="YAML file of data, space, objectives and trials"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for the study, its runs and the report"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trials side by side (default 1)")
    parser.add_argument(
        "--storage", metavar="URL", help="where the study is kept (default: study.journal in the folder)"
    )
    parser.add_argument("--worker", action="store_true", help="run trials beside others, and report nothing")
    parser.add_argument("--seed", type=int, help="of the sampler and of every run (default: the file's)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the sweep and return what was found."""
    from dataclasses import replace

    from slimtab.sweep.report import rows, write_report
    from slimtab.sweep.settings import read_sweep
    from slimtab.sweep.study import sweep_study

    if args.jobs < 1:
        raise SlimtabError(f"{args.jobs} jobs run nothing; give --jobs 1 or more")
    config = read_sweep(args.sweep)
    config = config if args.seed is None else replace(config, seed=args.seed)
    study = sweep_study(config, args.out, args.storage)
    _work(args, study, config)
    if args.worker:
        return {"trials": len(study.get_trials(deepcopy=False))}
    found = write_report(study, config, args.out)
    if not args.json:
        print(columns(rows(found, config)))
    print(f"all trials: {args.out / 'trials.csv'}   plots: {args.out}/*.png", file=sys.stderr)
    return {
        "trials": len(study.get_trials(deepcopy=False)),
        "found": [
            {
                "trial": trial.number,
                **dict(zip(config.objectives, trial.values, strict=True)),
                **{key: trial.user_attrs[key] for key in ("run", "share", "test_auc")},
                "settings": trial.params,
            }
            for trial in found
        ],
    }


def _work(args: argparse.Namespace, study: Study, config: SweepConfig) -> None:
    """Run trials in this process and, where several are wanted side by side, in others like it."""
    from slimtab.sweep.worker import work

    others = []
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", "slimtab", "sweep", str(args.sweep), "-o", str(args.out), "--worker"]
        command += ["--storage", args.storage] if args.storage else []
        command += ["--seed", str(args.seed)] if args.seed is not None else []
        others = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(args.jobs - 1)]
    try:
        work(
            study,
            config,
            args.out,
            lambda number, outcome: print(f"trial {number}: {outcome}", file=sys.stderr),
        )
        for process in others:
            process.wait()
    finally:
        for process in others:
            process.terminate()
    if any(process.returncode for process in others):
        raise SlimtabError("a process of the sweep failed, as it says above; the same command goes on")
