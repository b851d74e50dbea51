"""``slimtab train``: a dataset folder in, a run folder out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtab.cli.render import leads, table

if TYPE_CHECKING:
    from slimtab.config import RunConfig

HELP = "train a model with compressed tables; the same command resumes a run that was stopped"
EXAMPLE = "slimtab train data/criteo --method unified --budget 10% --run runs/u10 optimizer.lr=0.0005"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings(parser)
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="RUN",
        help="a finished run of full with these settings: rq and dedup, which train such a table first, "
        "take it over and end as they would have",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare those that say what is trained, on what and where."""
    parser.add_argument("data", nargs="?", help="dataset folder made by `slimtab prep`")
    parser.add_argument(
        "settings", nargs="*", default=[], metavar="key=value", help="further settings, as in config.yaml"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file of settings; config.yaml of any run is one"
    )
    parser.add_argument("--run", metavar="FOLDER", help="run folder; an unfinished run in it is continued")
    parser.add_argument("--model", help="deepfm (default), dlrm or dcn")
    parser.add_argument(
        "--method",
        help="how tables are made small; `slimtab methods` lists them (default full); "
        "auto plans one for each feature",
    )
    parser.add_argument(
        "--budget", help="serving bytes of the tables: 10%% of the full ones, or a size like 4MB"
    )
    parser.add_argument("--dim", type=int, help="embedding width (default 16)")
    parser.add_argument("--seed", type=int, help="of start values, dropout and shuffling (default 0)")


def config_of(args: argparse.Namespace) -> RunConfig:
    """Return the settings that arguments give."""
    from slimtab.config import load_config

    if args.data and "=" in args.data:  # settings alone, with the folder in --config
        args.settings.insert(0, args.data)
        args.data = None
    given = {
        "data": args.data,
        "run": args.run,
        "model.name": args.model,
        "table.method": args.method,
        "table.budget": args.budget,
        "table.dim": args.dim,
        "seed": args.seed,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    return load_config(args.config, overrides, args.settings)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train and return the run's metrics."""
    from slimtab.auto import auto_run
    from slimtab.errors import SlimtabError
    from slimtab.run import train_run

    config = config_of(args)
    if config.table.method != "auto":
        metrics = train_run(config, source=args.source)
    elif args.source is None:
        metrics = auto_run(config)
    else:
        raise SlimtabError("auto trains a yardstick of its own; leave --from out")
    if not args.json and leads():
        print(table([metrics]))
        print(
            f"run folder: {metrics['run']}   watch it: tensorboard --logdir {metrics['run']}", file=sys.stderr
        )
    return metrics
