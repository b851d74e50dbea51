"""A comparison as one HTML file that needs no network: hover for figures, click a name to hide its line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from slimtab.files import written
from slimtab.reporting.compare import HEAD, SPEEDS, Contender, best_of, cells
from slimtab.reporting.lines import Line, byte_ticks, lines, seeds_range
from slimtab.sizes import format_bytes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 1200px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3em .6em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
td:nth-child(2) { white-space: normal }
th { position: sticky; top: 0; background: #fff }
tr.hull td { font-weight: 600 }
"""
_LINE_HEIGHT = 21  # pixels of a legend's entry


def write_page(rows: Sequence[Contender], path: Path, title: str = "slimtab: quality against size") -> None:
    """Write the page at ``path``: the trade, a table in which the hull stands out, and speeds."""
    best, drawn = best_of(rows), lines(rows)
    figures = [_trade(drawn, best), _speed(drawn, "training rows per second", _training, rangemode="tozero")]
    if any(row.lookup_ratio for row in rows):
        figures.append(
            _speed(drawn, "time of a frozen lookup, full table = 1", _lookup, type="log", dtick="D2")
        )
    trade, *speeds = (
        figure.to_html(full_html=False, include_plotlyjs=n == 0, config={"displaylogo": False})
        for n, figure in enumerate(figures)
    )
    table = "".join(_line(row, row in best) for row in rows)
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    text = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{seeds_range(rows).capitalize()}: means, and standard deviations where there are several. The "
        "grey line, and bold in the table, is the hull: what nothing beats in both AUC and bytes. Click a "
        "name to hide its line, twice to see it alone.</p>"
        f"{trade}<p>AUC to full, by seed: mean ± standard deviation of the differences to the full tables of "
        "the same seed, and p of a paired t-test from three seeds on, not corrected for the number of lines."
        f"</p><table><tr>{head}</tr>{table}</table><h2>Speed</h2><p>{SPEEDS}</p>{''.join(speeds)}</html>"
    )
    with written(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _trade(drawn: Sequence[Line], best: Sequence[Contender]) -> go.Figure:
    figure = go.Figure(
        layout={
            "template": "plotly_white",
            "height": max(560, 120 + _LINE_HEIGHT * (len(drawn) + 1)),
            "margin": {"t": 30, "r": 20},
            "legend": {"title": "method"},
        }
    )
    figure.add_scatter(
        x=[row.mean("serve_bytes") for row in best],
        y=[row.mean("test", "auc") for row in best],
        mode="lines",
        line={"color": "#ddd", "width": 8, "shape": "hv"},
        name="hull",
        hoverinfo="skip",
    )
    for line in drawn:
        spreads = [row.spread("test", "auc") for row in line.points]
        figure.add_scatter(
            x=[row.mean("serve_bytes") for row in line.points],
            y=[row.mean("test", "auc") for row in line.points],
            error_y={"array": [spread or 0 for spread in spreads], "visible": any(spreads), "thickness": 1},
            mode="lines+markers",
            line={"color": line.colour, "width": 1.5, "dash": line.dash},
            marker={"symbol": line.symbol, "size": 8},
            name=line.label,
            text=[_hover(row) for row in line.points],
            hovertemplate="<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        )
    ticks = byte_ticks([row for line in drawn for row in line.points])
    figure.update_xaxes(
        type="log",
        tickvals=ticks,
        ticktext=[format_bytes(tick) for tick in ticks],
        title="serving bytes of the embedding tables",
    )
    figure.update_yaxes(title="test AUC")
    return figure


def _training(row: Contender) -> float | None:
    return row.mean("rows_per_second")


def _lookup(row: Contender) -> float | None:
    return row.lookup_ratio


def _speed(
    drawn: Sequence[Line], title: str, figure_of: Callable[[Contender], float | None], **axis: Any
) -> go.Figure:
    """Draw a line of points for each method, coloured by their share of the full table."""
    points = [(line.label, row, figure_of(row)) for line in reversed(drawn) for row in line.points]
    points = [point for point in points if point[2] is not None]
    figure = go.Figure(
        layout={
            "template": "plotly_white",
            "height": max(300, 130 + _LINE_HEIGHT * len(drawn)),
            "margin": {"t": 40},
        }
    )
    shares = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    figure.add_scatter(
        x=[value for _, _, value in points],
        y=[label for label, _, _ in points],
        mode="markers",
        marker={
            "size": 10,
            "color": [math.log10(row.share) for _, row, _ in points],
            "cmin": math.log10(shares[0]),
            "cmax": 0,
            "colorscale": "Viridis",
            "reversescale": True,
            "colorbar": {
                "title": "tables, of full",
                "tickvals": [math.log10(share) for share in shares],
                "ticktext": [f"{share:.0%}" for share in shares],
            },
        },
        text=[_hover(row) for _, row, _ in points],
        hovertemplate="<b>%{y}</b><br>%{text}<extra></extra>",
    )
    figure.update_xaxes(title=title, **axis)
    figure.update_yaxes(automargin=True)
    return figure


def _hover(row: Contender) -> str:
    _, _, size, share, auc, loss, to_full, rows, lookup, seeds = cells(row)
    return (
        f"test AUC {auc}, logloss {loss}<br>to full: {to_full}<br>{size}, {share} of full<br>"
        f"{rows} rows/s, lookup {lookup}, seeds: {seeds}"
    )


def _line(row: Contender, best: bool) -> str:
    texts = "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
    return f"<tr{' class=hull' if best else ''}>{texts}</tr>"
