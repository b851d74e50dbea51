"""``slimtab synth``: write a Criteo-format raw file whose labels follow a known rule."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

HELP = "write a synthetic Criteo-format raw file with a planted signal"
EXAMPLE = "slimtab synth clicks.tsv.gz --rows 200000 --ids 20000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write: .tsv, .tsv.gz or .tsv.zst")
    parser.add_argument("--rows", type=int, default=200_000, help="number of rows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which rows are drawn (default: %(default)s)")
    parser.add_argument(
        "--ids",
        type=int,
        help="size of the largest vocabulary, others in proportion (default: Kaggle's, 10,131,227)",
    )
    parser.add_argument(
        "--signal", type=float, default=1.0, help="factor on the log-odds (default: %(default)s)"
    )
    parser.add_argument(
        "--malformed", type=float, default=0.0, help="share of lines to damage (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the file; return ``rows, malformed, bayes_auc, bytes, seconds``."""
    from slimtab.data.synthetic import write_criteo
    from slimtab.sizes import format_bytes

    start = time.perf_counter()
    made = write_criteo(
        args.out, args.rows, seed=args.seed, ids=args.ids, signal=args.signal, malformed=args.malformed
    )
    result = dataclasses.asdict(made) | {
        "malformed": len(made.malformed),
        "bytes": args.out.stat().st_size,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if not args.json:
        size, damaged = format_bytes(result["bytes"]), len(made.malformed)
        print(f"{args.out}: {made.rows:,} rows, {size}, {damaged:,} of them damaged")
        print(f"no model can expect a test AUC above {made.bayes_auc:.4f} on these rows")
    return result
