"""A comparison as one HTML file that needs no network: hover for figures, click a name to hide its line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

import plotly.graph_objects as go

from slimtab.files import written
from slimtab.hull import hull
from slimtab.reporting.compare import Contender, with_spread
from slimtab.sizes import format_bytes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; color: #222 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
tr.hull td { font-weight: 600 }
"""
_HEAD = ("method", "model", "tables", "of full", "test AUC", "test logloss", "rows/s", "seeds")


def write_page(rows: Sequence[Contender], path: Path, title: str = "slimtab: quality against size") -> None:
    """Write the page at ``path``: the trade, training speed, and a table in which the hull stands out."""
    best = hull(rows, lambda row: row.mean("serve_bytes"), lambda row: row.mean("test", "auc"))
    figures = [_trade(rows, best), _speed(rows)]
    plots = [figure.to_html(full_html=False, include_plotlyjs=n == 0) for n, figure in enumerate(figures)]
    lines = "".join(_line(row, row in best) for row in rows)
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    text = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
        "<p>Mean over seeds; bars are standard deviations. The grey line, and bold in the table, is the "
        "hull: what nothing beats in both AUC and bytes.</p>"
        f"{plots[0]}<table><tr>{head}</tr>{lines}</table>{plots[1]}</html>"
    )
    with written(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _trade(rows: Sequence[Contender], best: Sequence[Contender]) -> go.Figure:
    figure = go.Figure(layout={"template": "plotly_white", "height": 560, "legend": {"title": "method"}})
    figure.add_scatter(
        x=[row.mean("serve_bytes") for row in best],
        y=[row.mean("test", "auc") for row in best],
        mode="lines",
        line={"color": "#bbb", "width": 8, "shape": "hv"},
        name="hull",
        hoverinfo="skip",
    )
    for name, group in groupby(sorted(rows, key=_name), key=_name):
        line = sorted(group, key=lambda row: row.share)
        spreads = [row.spread("test", "auc") for row in line]
        figure.add_scatter(
            x=[row.mean("serve_bytes") for row in line],
            y=[row.mean("test", "auc") for row in line],
            error_y={"array": [spread or 0 for spread in spreads], "visible": any(spreads)},
            mode="lines+markers",
            name=name,
            text=[_hover(row) for row in line],
            hovertemplate="<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        )
    figure.update_xaxes(
        type="log", dtick="D2", tickformat="~s", ticksuffix="B", title="serving bytes of the embedding tables"
    )
    figure.update_yaxes(title="test AUC")
    return figure


def _speed(rows: Sequence[Contender]) -> go.Figure:
    figure = go.Figure(layout={"template": "plotly_white", "height": 120 + 24 * len(rows)})
    figure.add_bar(
        orientation="h",
        y=[f"{_name(row)}, {row.share:.1%}" for row in reversed(rows)],
        x=[row.mean("rows_per_second") for row in reversed(rows)],
        marker_color="#0072B2",
    )
    figure.update_xaxes(
        title="training rows per second, as they were measured: comparable on an idle machine only"
    )
    return figure


def _name(row: Contender) -> str:
    return f"{row.method} ({row.model})"


def _hover(row: Contender) -> str:
    return (
        f"test AUC {row.mean('test', 'auc'):.4f}, logloss {row.mean('test', 'logloss'):.4f}<br>"
        f"{format_bytes(row.mean('serve_bytes'))}, {row.share:.2%} of full<br>"
        f"{row.mean('rows_per_second'):,.0f} rows/s, {len(row.runs)} seeds"
    )


def _line(row: Contender, best: bool) -> str:
    cells = (
        escape(row.method),
        escape(row.model),
        format_bytes(row.mean("serve_bytes")),
        f"{row.share:.2%}",
        with_spread(row, "auc"),
        f"{row.mean('test', 'logloss'):.4f}",
        f"{row.mean('rows_per_second'):,.0f}",
        str(len(row.runs)),
    )
    return f"<tr{' class=hull' if best else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
