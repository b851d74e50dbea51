"""The lines of a plot: one for each method and model, the same colour and mark in every picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from slimtab.reporting.compare import Contender
from slimtab.reporting.pairs import seeds_text

# Okabe & Ito's palette, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Matplotlib's marks with plotly's. As many as are coprime to the colours: 7 · 8 lines before a pair returns.
_MARKS = (
    ("o", "circle"), ("s", "square"), ("D", "diamond"), ("^", "triangle-up"), ("v", "triangle-down"),
    ("P", "cross"), ("*", "star"), ("X", "x"),
)  # fmt: skip
# Matplotlib's strokes with plotly's: the next one once the colours are used up.
_STROKES = (("solid", "solid"), ("dashed", "dash"), ("dotted", "dot"))


@dataclass(frozen=True)
class Line:
    """One method in one model, over its sizes.

    Attributes:
        label: for a legend: the method, and the model where there are several.
        points: from small to large.
        colour: as ``#rrggbb``.
        marker: matplotlib's.
        symbol: plotly's, of the same shape.
        stroke: matplotlib's.
        dash: plotly's, of the same kind.
    """

    label: str
    points: tuple[Contender, ...]
    colour: str
    marker: str
    symbol: str
    stroke: str
    dash: str


def lines(rows: Sequence[Contender]) -> list[Line]:
    """Return the lines from top to bottom, as they end at their small side."""

    def name(row: Contender) -> tuple[str, str]:
        return row.name, row.model

    several = len({row.model for row in rows}) > 1
    found = []
    for number, ((method, model), group) in enumerate(groupby(sorted(rows, key=name), key=name)):
        label = f"{method} ({model})" if several else method
        points = tuple(sorted(group, key=lambda row: row.share))
        turn, colour = divmod(number, len(_COLOURS))
        marks, strokes = _MARKS[number % len(_MARKS)], _STROKES[turn % len(_STROKES)]
        found.append(Line(label, points, _COLOURS[colour], *marks, *strokes))
    return sorted(found, key=lambda line: -line.points[0].mean("test", "auc"))


def seeds_range(rows: Sequence[Contender]) -> str:
    """Write how many seeds the rows have: ``3 seeds``, or ``1 to 3 seeds``."""
    counts = sorted({len(row.runs) for row in rows})
    if len(counts) == 1:
        return seeds_text(counts[0])
    return f"{counts[0]} to {counts[-1]} seeds"


def byte_ticks(rows: Sequence[Contender]) -> list[int]:
    """Return round numbers of bytes around those of the rows: 1, 2 and 5 of each decade, more within one."""
    sizes = [row.mean("serve_bytes") for row in rows]
    firsts = (10, 20, 50) if max(sizes) > 10 * min(sizes) else (10, 15, 20, 25, 30, 40, 50, 60, 80)
    ticks = (first * 10**power for power in range(15) for first in firsts)
    return [tick for tick in ticks if min(sizes) / 2 <= tick <= 2 * max(sizes)]
