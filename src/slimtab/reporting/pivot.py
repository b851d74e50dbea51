"""Methods down, budgets across: what each costs in AUC, paired with the full table seed by seed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from slimtab.files import written
from slimtab.reporting.compare import Contender
from slimtab.reporting.pairs import gap, seeds_text
from slimtab.sizes import format_bytes

_FILLED = 0.95  # a cell names its share of the full table when that is less than this of the budget

LEGEND = (
    "Test AUC less the full table's of the same seed: mean ± standard deviation of the differences. "
    "\\* p < 0.05 and \\*\\* p < 0.01 in a paired t-test over three seeds or more, not corrected for the "
    "number of cells. "
    "In brackets: the share of the full table where a method takes less than its budget."
)


@dataclass(frozen=True)
class Cell:
    """One method at one budget.

    Attributes:
        row: the method, as the table names it.
        column: the budget, as the table names it.
        runs: metrics of its runs, one per seed; none where it could not be run.
        note: why there are none.
        target: share of the full table it was given; None for its own size.
        settings: what was tuned, as chosen.
    """

    row: str
    column: str
    runs: tuple[dict[str, Any], ...] = ()
    note: str = ""
    target: float | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def share(self) -> float:
        """Serving bytes over bytes of the full tables."""
        return float(self.runs[0]["serve_bytes"] / self.runs[0]["full_bytes"])


def pivot(cells: Sequence[Cell], text: Callable[[Cell], str]) -> str:
    """Return a Markdown table of ``text(cell)``: rows and columns as they come, sizes of one's own last."""
    columns = list(dict.fromkeys(cell.column for cell in sorted(cells, key=lambda cell: cell.target is None)))
    texts = {(cell.row, cell.column): text(cell) for cell in cells}
    lines = [f"| method | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    lines += [
        f"| {row} | " + " | ".join(texts.get((row, column), "") for column in columns) + " |"
        for row in dict.fromkeys(cell.row for cell in cells)
    ]
    return "\n".join(lines)


def quality(cell: Cell, baseline: Sequence[dict[str, Any]]) -> str:
    """Return a cell's difference to ``baseline``, or its own mean AUC where there is no baseline."""
    if not cell.runs:
        return cell.note
    seeds = len(cell.runs)
    if baseline:
        difference = gap(cell.runs, baseline)
        if difference is None:
            return "no seed in common with full"
        stars = "" if difference.p is None or difference.p >= 0.05 else " \\*"
        stars = " \\*\\*" if difference.p is not None and difference.p < 0.01 else stars
        shown = f"{difference.mean:+.4f}".replace("-", "−") + _spread(difference.std) + stars
        seeds = difference.seeds
    else:
        auc = [run["test"]["auc"] for run in cell.runs]
        shown = f"{mean(auc):.4f}" + _spread(stdev(auc) if seeds > 1 else None)
    if cell.target is None or cell.share < _FILLED * cell.target:
        shown += f" ({share_text(cell.share)})"
    if baseline and seeds < len(baseline):
        shown += f" [{seeds} of {len(baseline)} seeds]"
    return shown


def share_text(share: float) -> str:
    """Write a share of the full table for people: ``share_text(0.0312) == "3.1 %"``."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def chosen(cell: Cell) -> str:
    """Return the tuned settings of a cell, by the last part of their keys."""
    settings = cell.settings or {}
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())


def summary(full: Contender) -> str:
    """Return the line that stands over a pivot: what all cells are measured against."""
    auc, loss = (
        f"{full.mean('test', figure):.4f}{_spread(full.spread('test', figure))}"
        for figure in ("auc", "logloss")
    )
    size, seeds = format_bytes(full.mean("serve_bytes")), seeds_text(len(full.runs))
    return f"{full.method}: test AUC {auc}, logloss {loss}, {size} ({seeds})"


def _spread(std: float | None) -> str:
    return "" if std is None else f" ± {std:.4f}"


_COLUMNS = (
    "dataset", "model", "name", "method", "budget", "seed", "settings", "chosen", "share", "serve_bytes",
    "train_bytes", "valid_auc", "valid_logloss", "test_auc", "test_logloss", "epochs", "rows_per_second",
    "lookup_ms", "lookup_ratio", "wall_seconds", "peak_memory_bytes", "run",
)  # fmt: skip


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write one line per run.

    Args:
        rows: metrics of the runs; those of a grid have ``dataset``, ``name``, ``budget``, ``tuned`` and
            ``chosen`` beside them.
        path: of the file.
    """
    with written(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        sheet = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        sheet.writeheader()
        for row in rows:
            scores = {
                f"{split}_{key}": row[split][key] for split in ("valid", "test") for key in ("auc", "logloss")
            }
            settings = " ".join(f"{key}={value}" for key, value in row.get("tuned", {}).items())
            share = row["serve_bytes"] / row["full_bytes"]
            lookup = (
                {f"lookup_{key}": row["lookup"][key] for key in ("ms", "ratio")} if "lookup" in row else {}
            )
            sheet.writerow({**row, **scores, **lookup, "share": share, "settings": settings})
