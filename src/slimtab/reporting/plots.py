"""Pictures of the trade: bytes against quality, and how fast each method trains and is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.colors import LogNorm
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from slimtab.files import written
from slimtab.reporting.compare import Contender, best_of
from slimtab.reporting.lines import byte_ticks, lines, seeds_range
from slimtab.sizes import format_bytes

_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_CROWDED = 4  # more lines than this have their legend beside the picture


def plot_trade(rows: Sequence[Contender], path: Path) -> None:
    """Draw test AUC against serving bytes, one line per model and method, and write a PNG.

    The full table is drawn as a dashed line across, the mark that all others aim for, and the hull as a
    broad grey one. The axis on top gives shares of the full table.
    """
    drawn = lines(rows)
    crowded = len(drawn) > _CROWDED
    figure, axes = pyplot.subplots(figsize=(11, 6.5) if crowded else (8, 5), layout="constrained")
    best = best_of(rows)
    axes.step(
        [row.mean("serve_bytes") for row in best],
        [row.mean("test", "auc") for row in best],
        where="post",
        color="0.85",
        linewidth=6,
        zorder=0,
        label="hull",
    )
    for line in drawn:
        aucs = [row.mean("test", "auc") for row in line.points]
        axes.errorbar(
            [row.mean("serve_bytes") for row in line.points],
            aucs,
            yerr=[row.spread("test", "auc") or 0.0 for row in line.points],
            label=line.label,
            color=line.colour,
            linestyle=line.stroke,
            marker=line.marker,
            markersize=6 if crowded else 8,
            linewidth=1.2 if crowded else 1.5,
            elinewidth=0.8,
            capsize=2 if crowded else 3,
        )
        if line.points[0].method == "full":
            axes.axhline(aucs[-1], color=line.colour, linestyle="--", linewidth=1, alpha=0.6)
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.08)
    limits = axes.get_xlim()
    ticks = [tick for tick in byte_ticks(rows) if limits[0] <= tick <= limits[1]]
    axes.set_xticks(ticks, [format_bytes(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("serving bytes of the embedding tables (log scale)")
    axes.set_ylabel("test AUC")
    seeds = seeds_range(rows)
    axes.set_title(
        f"Quality against size ({'' if seeds == '1 seed' else 'mean ± standard deviation, '}{seeds})"
    )
    _draw_shares(axes, rows)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    # The hull comes first where it stands alone, as matplotlib lists plain lines before those with bars.
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if crowded else {"loc": "best"}
    axes.legend(handles, labels, frameon=not crowded, framealpha=0.7, **place)
    _save(figure, path)


def plot_speed(rows: Sequence[Contender], path: Path) -> None:
    """Draw training rows per second and frozen lookups' times, a line of points for each method: a PNG.

    Points are coloured by their share of the full table. Lookups are drawn where any were measured.
    """
    drawn = lines(rows)[::-1]
    panels: list[tuple[str, Callable[[Contender], float | None]]] = [
        ("training rows per second", lambda row: row.mean("rows_per_second"))
    ]
    if any(row.lookup_ratio for row in rows):
        panels.append(("time of a frozen lookup, full table = 1", lambda row: row.lookup_ratio))
    size = (5.5 * len(panels) + 1, 1.6 + 0.28 * len(drawn))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    shares = LogNorm(min(0.01, *(row.share for row in rows)), 1)
    for panel, (title, figure_of) in zip(axes[0], panels, strict=True):
        found = [
            (value, height, row.share)
            for height, line in enumerate(drawn)
            for row in line.points
            if (value := figure_of(row)) is not None
        ]
        values, heights, colours = zip(*found, strict=True)
        points = panel.scatter(values, heights, c=colours, norm=shares, cmap="viridis_r", s=36)
        panel.set_yticks(range(len(drawn)), [line.label for line in drawn])
        panel.set_title(title, fontsize="medium")
        panel.grid(alpha=0.3)
    axes[0, 0].set_xlim(left=0)
    axes[0, 0].xaxis.set_major_formatter(EngFormatter(sep=""))
    if len(panels) > 1:
        axes[0, 1].set_xscale("log")
        axes[0, 1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0, 1].xaxis.set_major_formatter("{x:g}")
        axes[0, 1].xaxis.set_minor_formatter(NullFormatter())
    bar = figure.colorbar(points, ax=axes, label="tables, of the full ones")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle("Speed, as it was measured: runs side by side slow each other down", fontsize="medium")
    _save(figure, path)


def _save(figure: pyplot.Figure, path: Path) -> None:
    with written(path) as beside:
        figure.savefig(beside, dpi=150, format="png")
    pyplot.close(figure)


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
