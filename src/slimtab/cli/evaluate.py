"""``slimtab evaluate``: a run's frozen model on labelled raw rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "score a finished run on raw rows: AUC, logloss, calibration"
EXAMPLE = "slimtab evaluate runs/u10 day_23.gz --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder made by `slimtab train`")
    parser.add_argument(
        "raw", type=Path, metavar="RAW_FILE", help="labelled raw rows: tsv or csv (.gz, .zst), or Parquet"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="accepted by every command; an evaluation does not depend on it"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate and return the figures."""
    from slimtab.cli.render import report_rejects
    from slimtab.serving.predict import evaluate_raw

    metrics, rejects = evaluate_raw(args.run_folder / "frozen", args.raw)
    report_rejects(rejects)
    if not args.json:
        quality = f"AUC {metrics.auc:.4f}   logloss {metrics.logloss:.4f}"
        print(f"{quality}   calibration {metrics.calibration:.3f}   rows {metrics.rows:,}")
    return {**metrics.to_dict(), "rejected": len(rejects)}
