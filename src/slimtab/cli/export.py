"""``slimtab export``: a run's frozen model as a program that serves elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from slimtab.sizes import format_bytes

HELP = "write a run's model as a program that serves raw rows: torch.export, AOTInductor, ONNX, safetensors"
EXAMPLE = "slimtab export runs/u10 --format onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from slimtab.serving.formats import FORMATS

    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder made by `slimtab train`")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="pt2",
        help="what runs it: torch (pt2, aoti, safetensors) or another runtime (onnx); default pt2",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help="folder to make (default RUN/export/FORMAT); an earlier export there is replaced",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="accepted by every command; an export does not depend on it"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Export and return the card."""
    from slimtab.serving.export import export

    out = args.out or args.run_folder / "export" / args.format
    card = export(args.run_folder / "frozen", args.format, out)
    nbytes = sum(card["files"].values())
    print(f"{card['method']} as {args.format}, {format_bytes(nbytes)} → {out}", file=sys.stderr)
    return {**card, "out": str(out)}
