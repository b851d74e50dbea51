"""``slimtab predict``: a probability for each raw row."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HELP = "write a click probability for each raw row, in the file's order"
EXAMPLE = "slimtab predict runs/u10 new_rows.tsv -o predictions.parquet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder made by `slimtab train`")
    parser.add_argument("raw", type=Path, metavar="RAW_FILE", help="raw rows, with labels or without")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="Parquet file to write: row, probability"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="accepted by every command; predictions do not depend on it"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Predict and return how many rows were scored."""
    from slimtab.cli.render import report_rejects
    from slimtab.serving.predict import predict_raw

    rows, rejects = predict_raw(args.run_folder / "frozen", args.raw, args.out)
    report_rejects(rejects)
    print(f"{rows:,} rows scored → {args.out}", file=sys.stderr)
    return {"rows": rows, "rejected": len(rejects), "out": str(args.out)}
