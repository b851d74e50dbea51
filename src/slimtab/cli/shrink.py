"""``slimtab shrink``: trained tables in, small ones out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from slimtab.sizes import format_bytes

HELP = "make the tables of a trained model small: a run's, a TorchRec checkpoint's, or any state_dict's"
EXAMPLE = "slimtab shrink runs/full --method rq --budget 8% --data data/criteo -o runs/full-rq8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="run folder of method full, or a file of weights: .pt, .pth, .safetensors",
    )
    parser.add_argument("--method", help="int8, int4, int2, rq, pq, binary, dedup, tt or prune")
    parser.add_argument(
        "--budget", help="serving bytes: 8%% of the full tables, or a size like 4MB; the integers need none"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DATASET",
        help="dataset folder: weighs ids by frequency, and measures AUC before and after",
    )
    parser.add_argument(
        "--tables", nargs="+", default=[], metavar="NAME", help="which tensors are tables; * for any letters"
    )
    parser.add_argument(
        "--map",
        nargs="+",
        default=[],
        metavar="TABLE=FEATURE",
        help="which features tables serve, where names do not agree",
    )
    parser.add_argument(
        "--model",
        metavar="FILE.py:FUNCTION",
        help="function that builds the checkpoint's model, for AUC; the file is run",
    )
    parser.add_argument(
        "--min-ids", type=int, default=1000, metavar="N", help="smaller tables stay (default 1000)"
    )
    parser.add_argument("--trust", action="store_true", help="load a checkpoint that holds code, and run it")
    parser.add_argument(
        "--finetune",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="then train codebooks and the dense network to answer as before, for so long (needs --data)",
    )
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="in place of a method: bits for each feature, by what the model's answers feel (needs --data)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of samples and starts (default 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Shrink and return the figures."""
    from slimtab.cli.render import columns
    from slimtab.config import read_assignment
    from slimtab.shrinking.job import Job

    named = dict(read_assignment(text, "t_user=user") for text in args.map)
    figures = Job(
        args.checkpoint,
        args.out,
        args.method,
        args.budget,
        args.data,
        args.tables,
        {table: str(feature) for table, feature in named.items()},
        args.model,
        args.min_ids,
        args.trust,
        args.finetune,
        args.mixed,
        args.seed,
    ).run()
    if not args.json:
        print(columns(_lines(figures)))
        for line in _quality(figures):
            print(line)
        print(f"{args.out}: {figures['serve_bytes'] / figures['full_bytes']:.2%} of the full tables")
    return figures


def _lines(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [
        ("table", "rows", "full", "bytes", "error", "cosine", "≤ 10 %", "≤ 100 %")
    ]
    for name, found in figures["tables"].items():
        within = found["rows_by_error"]
        lines.append(
            (
                name,
                f"{found['rows']:,}",
                format_bytes(found["full_bytes"]),
                format_bytes(found["bytes"]),
                f"{found['relative_error']:.1%}",
                f"{found['cosine']:.4f}",
                f"{within['0.1']:.0%}",
                f"{within['1']:.0%}",
            )
        )
    return lines


def _quality(figures: dict[str, Any]) -> list[str]:
    if "before" not in figures:
        return []
    before, after = figures["before"]["test"], figures["after"]["test"]
    return [
        f"test AUC {before['auc']:.4f} → {after['auc']:.4f} ({after['auc'] - before['auc']:+.4f})   "
        f"logloss {before['logloss']:.4f} → {after['logloss']:.4f}"
    ]
