"""``slimtab prep``: raw rows → a dataset folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HELP = "turn raw rows into a dataset folder"
EXAMPLE = "slimtab prep criteo train.txt data/criteo --min-count 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "kind", choices=["criteo", "avazu", "sports", "table"], help="format of the raw files"
    )
    parser.add_argument(
        "source", type=Path, metavar="SRC", help="raw file (plain, .gz, .zst, .parquet) or folder"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="dataset folder to make")
    parser.add_argument("--columns", type=Path, metavar="FILE", help="column description (YAML), for table")
    parser.add_argument(
        "--numeric",
        choices=["log1p", "bucket", "standard"],
        default="log1p",
        help="ln(1 + x), a categorical token ⌊ln(x)²⌋, or standardised (default: log1p)",
    )
    parser.add_argument(
        "--min-count",
        type=int,
        metavar="N",
        help="training rows a token needs for an id (default: 2; sports 1)",
    )
    parser.add_argument(
        "--ids",
        choices=["vocab", "hash"],
        default="vocab",
        help="numbered tokens, or 64-bit hashes without a vocabulary",
    )
    parser.add_argument(
        "--split",
        choices=["chronological", "random"],
        default="chronological",
        help="by the order of the rows, or drawn per row (default: chronological)",
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs=3,
        default=(0.8, 0.1, 0.1),
        metavar=("TRAIN", "VALID", "TEST"),
        help="shares of the rows (default: 0.8 0.1 0.1)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random split, negatives and hashes (default: 0)"
    )
    parser.add_argument("--max-memory", default="2GB", metavar="SIZE", help="memory to use (default: 2GB)")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes for many files (default: threads of one)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="scheduler of a Dask cluster, for many machines with one file system",
    )
    parser.add_argument(
        "--max-rejects",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="stop when more rows than this share are malformed (default: 0.01)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare the dataset and return its figures."""
    from slimtab.data.manifest import MANIFEST
    from slimtab.data.options import PrepOptions
    from slimtab.data.prepare import prepare
    from slimtab.schema import SPLITS

    train, valid, test = args.shares
    options = PrepOptions(
        kind=args.kind,
        numeric=args.numeric,
        min_count=args.min_count,
        ids=args.ids,
        split=args.split,
        train=train,
        valid=valid,
        test=test,
        seed=args.seed,
        max_memory=args.max_memory,
        max_rejects=args.max_rejects,
        columns=args.columns,
        workers=args.workers,
        dask=args.dask,
    )
    schema = prepare(args.source, args.out, options)
    rejects = json.loads((args.out / MANIFEST).read_text(encoding="utf-8"))["rejects"]
    ids = sum(feature.num_ids for feature in schema.features)
    rows = ", ".join(f"{schema.rows[name]:,} {name}" for name in SPLITS)
    print(f"{args.out}: {rows} rows; {ids:,} ids in {len(schema.features)} features", file=sys.stderr)
    return {
        "out": str(args.out),
        "rows": schema.rows,
        "rejects": rejects,
        "features": len(schema.features),
        "ids": ids,
    }
