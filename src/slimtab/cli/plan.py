"""``slimtab plan``: what a method would make of a budget, before any training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from slimtab.cli.render import columns
from slimtab.errors import SlimtabError
from slimtab.sizes import format_bytes, parse_bytes

HELP = "show where a budget's bytes would go, feature by feature, before training"
EXAMPLE = "slimtab plan data/criteo --method unified --budget 10%"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("data", type=Path, help="dataset folder made by `slimtab prep`")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="key=value",
        help="options of the method, such as probes=2, or rules=[{min_ids: 10000, method: hash}]",
    )
    parser.add_argument("--method", default="full", help="`slimtab methods` lists them (default full)")
    parser.add_argument("--budget", help="serving bytes: 10%% of the full tables, or a size like 4MB")
    parser.add_argument("--dim", type=int, default=16, help="embedding width (default 16)")
    parser.add_argument(
        "--world-size", type=int, metavar="N", help="show also what each of N ranks would hold in training"
    )
    parser.add_argument(
        "--memory", default="16GB", help="of each rank, with --world-size (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=65_536,
        help="rows of a step over all ranks, with --world-size (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="accepted by every command; a plan does not depend on it"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Size the table and return its bytes."""
    from slimtab.config import build_config, read_assignment
    from slimtab.plan import plan, plan_ranks
    from slimtab.schema import Schema

    options = dict(read_assignment(setting, "probes=2") for setting in args.settings)
    rules = build_config({"table": {"rules": options.pop("rules", [])}}).table.rules
    schema = Schema.load(args.data / "schema.json")
    figures = plan(schema, args.method, args.budget, args.dim, options, rules)
    if args.world_size is not None:
        if args.world_size < 1:
            raise SlimtabError(f"--world-size {args.world_size}: a training has 1 rank or more")
        figures["ranks"] = plan_ranks(
            schema,
            args.method,
            args.budget,
            args.dim,
            options,
            rules,
            ranks=args.world_size,
            memory=parse_bytes(args.memory),
            batch=args.batch_size,
        )
    if not args.json:
        lines = [("feature", "ids", "full", "serving")] + [
            (f["name"], f"{f['num_ids']:,}", format_bytes(f["full_bytes"]), format_bytes(f["serve_bytes"]))
            for f in figures["features"]
        ]
        total = (
            "all",
            f"{figures['num_ids']:,}",
            format_bytes(figures["full_bytes"]),
            format_bytes(figures["serve_bytes"]),
        )
        print(columns([*lines, total]))
        share = figures["serve_bytes"] / figures["full_bytes"]
        print(
            f"{args.method}: {share:.2%} of the full tables; "
            f"{format_bytes(figures['train_bytes'])} while training"
        )
        if "ranks" in figures:
            print(_of_ranks(figures["ranks"]))
    return figures


def _of_ranks(figures: dict[str, Any]) -> str:
    ranks, nbytes = figures["ranks"], {name: format_bytes(value) for name, value in figures.items()}
    return (
        f"over {ranks} {'rank' if ranks == 1 else 'ranks'} of {nbytes['memory_bytes']} it fits: at most "
        f"{nbytes['rows_bytes']} of rows on a rank, and {nbytes['replicated_bytes']} on every one; "
        f"a step moves at most {nbytes['traffic_bytes']} between a rank and the others, and its lookups take "
        f"{figures['estimated_milliseconds']:.3g} ms as TorchRec's planner estimates them for CPUs"
    )
