"""Figures as a text table, the same in every command that prints runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slimtab.sizes import format_bytes

if TYPE_CHECKING:
    from slimtab.data.readers import Reject

_SHOWN_REJECTS = 5


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return one line per run's metrics: quality beside bytes beside speed."""
    header = (
        "run",
        "model",
        "method",
        "budget",
        "test AUC",
        "logloss",
        "tables",
        "of full",
        "vocab",
        "rows/s",
    )
    lines = [header] + [
        (
            run["run"],
            run["model"],
            run["method"],
            format_bytes(run["budget_bytes"]) if run["budget_bytes"] else "–",
            f"{run['test']['auc']:.4f}",
            f"{run['test']['logloss']:.4f}",
            format_bytes(run["serve_bytes"]),
            f"{run['serve_bytes'] / run['full_bytes']:.1%}",
            format_bytes(run["vocab_bytes"]),
            f"{run['rows_per_second']:,.0f}",
        )
        for run in runs
    ]
    return columns(lines)


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Align cells under a header: the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def row(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([row(lines[0]), rule, *(row(line) for line in lines[1:])])


def report_rejects(rejects: Sequence[Reject]) -> None:
    """Say on standard error which rows were malformed: how many, and the first few with their reasons."""
    if not rejects:
        return
    print(f"{len(rejects):,} malformed rows left out; the first:", file=sys.stderr)
    for reject in rejects[:_SHOWN_REJECTS]:
        print(f"  line {reject.line}: {reject.reason}", file=sys.stderr)


def leads() -> bool:
    """Tell whether this process shows figures: of ranks that torchrun started, the first does."""
    return os.environ.get("RANK", "0") == "0"
