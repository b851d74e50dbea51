"""Pictures of the trade between bytes and quality."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter

from slimtab.reporting.compare import Contender
from slimtab.sizes import format_bytes

# Okabe & Ito's palette, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*X"


def plot_trade(rows: Sequence[Contender], path: Path) -> None:
    """Draw test AUC against serving bytes, one line per model and method, and write a PNG.

    The full table is drawn as a dashed line across, the mark that all others aim for.
    """
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")

    def name(row: Contender) -> tuple[str, str]:
        return row.method, row.model

    several_models = len({row.model for row in rows}) > 1
    for number, ((method, model), group) in enumerate(groupby(sorted(rows, key=name), key=name)):
        points = sorted(group, key=lambda row: row.share)
        colour = _COLOURS[number % len(_COLOURS)]
        sizes = [row.mean("serve_bytes") for row in points]
        aucs = [row.mean("test", "auc") for row in points]
        axes.errorbar(
            sizes,
            aucs,
            yerr=[row.spread("test", "auc") or 0.0 for row in points],
            label=f"{method} ({model})" if several_models else method,
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=8,
            capsize=3,
        )
        for size, auc, row in zip(sizes, aucs, points, strict=True):
            axes.annotate(
                f"{row.share:.0%}" if row.share >= 0.01 else f"{row.share:.1%}",
                (size, auc),
                (8, 6),
                textcoords="offset points",
                fontsize=9,
                color=colour,
            )
        if method == "full":
            axes.axhline(aucs[-1], color=colour, linestyle="--", linewidth=1, alpha=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: format_bytes(size)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda size, _: ""))
    axes.margins(x=0.12, y=0.15)
    axes.set_xlabel("serving bytes of the embedding tables (log scale)")
    axes.set_ylabel("test AUC")
    seeds = max(len(row.runs) for row in rows)
    axes.set_title(
        "Quality against size" + (f" (mean ± standard deviation of {seeds} seeds)" if seeds > 1 else "")
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    beside = path.with_name(path.name + ".tmp")
    figure.savefig(beside, dpi=150, format="png")
    pyplot.close(figure)
    beside.replace(path)
