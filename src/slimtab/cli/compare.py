"""``slimtab compare``: finished runs side by side, as a table and a plot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HELP = "put finished runs side by side: a table, and a plot of AUC against bytes"
EXAMPLE = "slimtab compare runs/full runs/h10 runs/u10 -o comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders; runs that differ only in their seed are averaged"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("comparison"), help="folder for table.md and auc_bytes.png"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="accepted by every command; a comparison does not depend on it"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the comparison and return its figures."""
    from slimtab.reporting.compare import contenders, load_runs, markdown
    from slimtab.reporting.plots import plot_trade

    rows = contenders(load_runs(args.runs))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(markdown(rows) + "\n", encoding="utf-8")
    plot_trade(rows, args.out / "auc_bytes.png")
    if not args.json:
        print(markdown(rows))
    print(f"plot: {args.out / 'auc_bytes.png'}", file=sys.stderr)
    return {
        "contenders": [
            {
                "model": row.model,
                "method": row.method,
                "share": row.share,
                "serve_bytes": row.mean("serve_bytes"),
                "auc": row.mean("test", "auc"),
                "auc_std": row.spread("test", "auc"),
                "logloss": row.mean("test", "logloss"),
                "rows_per_second": row.mean("rows_per_second"),
                "seeds": [run["seed"] for run in row.runs],
            }
            for row in rows
        ]
    }
