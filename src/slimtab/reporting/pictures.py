"""All that a comparison shows beside its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimtab.reporting.compare import Contender
from slimtab.reporting.page import write_page
from slimtab.reporting.plots import plot_speed, plot_trade


def write_pictures(rows: Sequence[Contender], out: Path, data: str = "") -> tuple[Path, Path]:
    """Write ``auc_bytes.png``, ``speed.png`` and ``page.html`` under ``out``.

    Args:
        rows: what is compared.
        out: folder.
        data: name of the dataset, which names the files too, where there are several.

    Returns:
        Paths of the plot of AUC against bytes and of the page.
    """
    ending = f"-{data}" if data else ""
    picture, page = out / f"auc_bytes{ending}.png", out / f"page{ending}.html"
    plot_trade(rows, picture)
    plot_speed(rows, out / f"speed{ending}.png")
    write_page(rows, page, f"{data or 'slimtab'}: quality against size")
    return picture, page
