"""``slimtab search``: a dataset folder in; a run folder with a front, and the point of it asked for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from slimtab.cli import train
from slimtab.cli.render import table

HELP = "learn which rows and widths are worth their bytes, retrain and freeze them; resumes when stopped"
EXAMPLE = "slimtab search data/criteo --method optembed --budget 10% --run runs/o10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: those of `slimtab train`, and the search's."""
    train.add_settings(parser)
    parser.set_defaults(method="optembed")
    parser.add_argument("--generations", type=int, default=30, help="of the evolution (default 30)")
    parser.add_argument("--population", type=int, default=20, help="candidates in each (default 20)")
    parser.add_argument(
        "--rows", type=int, help="validation rows candidates are scored on (default: a sixth of them)"
    )
    parser.add_argument(
        "--objective",
        choices=("front", "auc"),
        default="front",
        help="AUC against bytes (default), or the best AUC within the budget alone",
    )
    parser.add_argument(
        "--from", dest="source", metavar="RUN", help="take over this run's supernet and study: only retrain"
    )
    parser.add_argument(
        "--worker",
        type=int,
        metavar="N",
        help="help the search that another process has begun in --run: score candidates, and no more",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Search and return the run's metrics."""
    from slimtab.errors import SlimtabError
    from slimtab.searching import SearchSettings, join_search, search_run

    if min(args.generations, args.population - 1, args.rows or 1) < 1:
        raise SlimtabError("a search needs a generation, a population of two, and a row to score them on")
    settings = SearchSettings(
        args.generations, args.population, args.rows, args.objective, source=args.source
    )
    if args.worker is not None:
        if args.worker < 1:
            raise SlimtabError("--worker takes a number from 1 on, another for each process")
        scored = join_search(train.config_of(args), settings, args.worker)
        if not args.json:
            print(f"{args.run}: the search is over, {scored} candidates were scored")
        return {"run": args.run, "candidates": scored}
    metrics = search_run(train.config_of(args), settings)
    if not args.json:
        print(table([metrics]))
        folder = Path(metrics["run"]) / "search"
        print(f"front: {folder / 'front.png'}, {folder / 'front.csv'}", file=sys.stderr)
    return metrics
