"""Pictures of the trade between bytes and quality."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter

from slimtab.files import written
from slimtab.reporting.compare import Contender
from slimtab.sizes import format_bytes

# Okabe & Ito's palette, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# As many as are coprime to the colours: 7 · 8 methods before a pair of both returns.
_MARKERS = "osD^vP*X"
_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_CROWDED = 4  # more lines than this have their legend beside the picture


def plot_trade(rows: Sequence[Contender], path: Path) -> None:
    """Draw test AUC against serving bytes, one line per model and method, and write a PNG.

    The full table is drawn as a dashed line across, the mark that all others aim for. The axis on top
    gives shares of it.
    """

    def name(row: Contender) -> tuple[str, str]:
        return row.method, row.model

    lines = [list(group) for _, group in groupby(sorted(rows, key=name), key=name)]
    crowded = len(lines) > _CROWDED
    figure, axes = pyplot.subplots(figsize=(10, 6.5) if crowded else (8, 5), layout="constrained")
    several_models = len({row.model for row in rows}) > 1
    for number, line in enumerate(lines):
        points = sorted(line, key=_share)
        method, model = name(points[0])
        colour = _COLOURS[number % len(_COLOURS)]
        aucs = [row.mean("test", "auc") for row in points]
        axes.errorbar(
            [row.mean("serve_bytes") for row in points],
            aucs,
            yerr=[row.spread("test", "auc") or 0.0 for row in points],
            label=f"{method} ({model})" if several_models else method,
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=6 if crowded else 8,
            linewidth=1.2 if crowded else 1.5,
            elinewidth=0.8,
            capsize=2 if crowded else 3,
        )
        if method == "full":
            axes.axhline(aucs[-1], color=colour, linestyle="--", linewidth=1, alpha=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: format_bytes(size)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.06, y=0.08)
    axes.set_xlabel("serving bytes of the embedding tables (log scale)")
    axes.set_ylabel("test AUC")
    counts = [len(row.runs) for row in rows]
    fewest, most = min(counts), max(counts)
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    axes.set_title(
        "Quality against size" + (f" (mean ± standard deviation of {seeds} seeds)" if most > 1 else "")
    )
    _draw_shares(axes, rows)
    axes.grid(alpha=0.3)
    # From top to bottom as the lines end at their small side.
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(lines)), key=lambda n: -min(lines[n], key=_share).mean("test", "auc"))
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if crowded else {}
    axes.legend([handles[n] for n in order], [labels[n] for n in order], frameon=False, **place)
    with written(path) as beside:
        figure.savefig(beside, dpi=150, format="png")
    pyplot.close(figure)


def _share(row: Contender) -> float:
    return row.share


def _draw_shares(axes: pyplot.Axes, rows: Sequence[Contender]) -> None:
    """Mark shares of the full table along the top, where all rows are shares of the same one."""
    full = {row.runs[0]["full_bytes"] for row in rows}
    if len(full) > 1:
        return
    (whole,) = full
    low, high = axes.get_xlim()
    top = axes.twiny()
    top.set_xscale("log")
    top.set_xlim(low / whole, high / whole)
    shares = [share for share in _SHARES if low / whole <= share <= high / whole]
    top.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    top.xaxis.set_minor_formatter(NullFormatter())
    top.minorticks_off()
    top.set_xlabel("of the full table")
