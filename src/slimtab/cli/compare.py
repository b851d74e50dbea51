"""``slimtab compare``: finished runs side by side, as a table and a plot; with a grid, the runs too."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtab.errors import SlimtabError
from slimtab.sizes import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slimtab.grid.runs import Grid
    from slimtab.reporting.compare import Contender
    from slimtab.reporting.pivot import Cell

HELP = "put runs side by side: a table, and a plot of AUC against bytes; --grid trains them first"
EXAMPLE = "slimtab compare runs/full runs/h10 runs/u10 -o comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run folders; runs that differ only in their seed are averaged"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("comparison"),
        help="folder for table.md, table.csv, auc_bytes.png, speed.png and page.html",
    )
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="FILE",
        help="YAML file of data, methods, budgets and seeds: train all of them, or what is not finished, "
        "and tabulate each method's distance to full",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs of a grid side by side (default 1)")
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory that runs side by side may take, such as 8GB: another starts only when it is expected "
        "to fit (default: no limit)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="first seed of a grid; finished runs have theirs (default 0)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the comparison and return its figures."""
    if bool(args.runs) == bool(args.grid):
        raise SlimtabError("name run folders to compare, or a grid to run, as in --grid grid.yaml")
    return _run_grid(args) if args.grid else _compare_runs(args)


def _compare_runs(args: argparse.Namespace) -> dict[str, Any]:
    from slimtab.reporting.compare import contenders, load_runs, markdown
    from slimtab.reporting.pivot import write_csv

    runs = load_runs(args.runs)
    rows = contenders(runs)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(markdown(rows) + "\n", encoding="utf-8")
    write_csv(runs, args.out / "table.csv")
    _draw(rows, args.out)
    if not args.json:
        print(markdown(rows))
    return {"contenders": [_figures(row) for row in rows]}


def _draw(rows: Sequence[Contender], out: Path, data: str = "") -> None:
    from slimtab.reporting.pictures import write_pictures

    picture, page = write_pictures(rows, out, data)
    print(f"plot: {picture}   page: {page}", file=sys.stderr)


def _figures(row: Contender) -> dict[str, Any]:
    return {
        "model": row.model,
        "method": row.method,
        "share": row.share,
        "serve_bytes": row.mean("serve_bytes"),
        "auc": row.mean("test", "auc"),
        "auc_std": row.spread("test", "auc"),
        "logloss": row.mean("test", "logloss"),
        "to_full": row.to_full and dataclasses.asdict(row.to_full),
        "rows_per_second": row.mean("rows_per_second"),
        "lookup_ratio": row.lookup_ratio,
        "seeds": [run["seed"] for run in row.runs],
    }


def _run_grid(args: argparse.Namespace) -> dict[str, Any]:
    """Train a grid, write ``table.md``, ``table.csv`` and a plot per dataset.

    Raises:
        SlimtabError: when a run failed, after all others and the tables of those.
    """
    from slimtab.grid.runs import Grid
    from slimtab.grid.settings import read_grid
    from slimtab.reporting.pivot import write_csv

    config = read_grid(args.grid)
    memory = None if args.memory is None else parse_bytes(args.memory)
    grid = Grid(config, args.out, args.jobs, args.seed, memory)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        grid.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    reports = [_report(grid, data, single=len(config.data) == 1) for data in config.data]
    text = "\n\n".join(report for report, _ in reports)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    write_csv(grid.rows(), args.out / "table.csv")
    if not args.json:
        print(text)
    if grid.failed:
        for folder, reason in grid.failed.items():
            print(f"failed: {folder}: {reason}", file=sys.stderr)
        raise SlimtabError(
            f"{len(grid.failed)} of {len(grid.failed) + len(grid.finished)} runs failed, as listed above "
            "and in log.txt of their folders; the same command tries them again"
        )
    return {"datasets": [figures for _, figures in reports]}


def _stop(*_: object) -> None:
    """Take SIGTERM as Ctrl-C: a process that it ended at once would leave its runs behind."""
    raise KeyboardInterrupt


def _report(grid: Grid, data: str, single: bool) -> tuple[str, dict[str, Any]]:
    """Return a dataset's section of ``table.md`` and its figures, and draw its plot."""
    from slimtab.reporting.compare import contenders, markdown
    from slimtab.reporting.pivot import LEGEND, chosen, pivot, quality, summary

    cells = grid.cells(data)
    full = next((method.name for method in grid.config.methods if method.method == "full"), None)
    baseline = next((cell.runs for cell in cells if cell.row == full), ())
    rows = contenders((run for cell in _distinct(cells) for run in cell.runs), full or "full")
    parts = [f"## {Path(data).name}"]
    if baseline:
        parts += [summary(contenders(baseline)[0]), LEGEND]
    others = [cell for cell in cells if cell.row != full or not baseline]
    parts.append(pivot(others, lambda cell: quality(cell, baseline)))
    if grid.config.tune:
        parts += ["Chosen by validation logloss of the first seed:", pivot(cells, chosen)]
    if rows:
        _draw(rows, grid.out, "" if single else Path(data).name)
        parts.append(markdown(rows))
    figures = {"data": data, "cells": [_cell_figures(cell, baseline) for cell in cells]}
    return "\n\n".join(parts), figures


def _distinct(cells: list[Cell]) -> list[Cell]:
    """Leave out cells whose runs stand in another cell already."""
    return list({(cell.row, *(run["run"] for run in cell.runs)): cell for cell in cells}.values())


def _cell_figures(cell: Cell, baseline: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    from slimtab.reporting.compare import contenders
    from slimtab.reporting.pairs import gap

    difference = gap(cell.runs, baseline)
    return {
        "method": cell.row,
        "budget": cell.column,
        "note": cell.note,
        "settings": cell.settings,
        **(_figures(contenders(cell.runs)[0]) if cell.runs else {}),
        "to_full": difference and dataclasses.asdict(difference),
    }
