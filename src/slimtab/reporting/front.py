"""The front of a search: a file, a plot, and TensorBoard while it grows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from slimtab.files import written
from slimtab.search.evolution import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FrontBoard:
    """Shows a search in TensorBoard: best AUC so far, and the cloud of candidates generation by generation.

    Args:
        folder: where event files go.
        full_bytes: of the full table, the unit of sizes.
        population: candidates per generation.
    """

    def __init__(self, folder: Path, full_bytes: int, population: int) -> None:
        self._writer = SummaryWriter(str(folder))
        self._full, self._population = full_bytes, population
        self._seen: list[tuple[float, float]] = []

    def told(self, number: int, auc: float, nbytes: int) -> None:
        """Take one candidate in."""
        self._seen.append((nbytes / self._full, auc))
        self._writer.add_scalar("search/best_auc", max(auc for _, auc in self._seen), number)
        if (number + 1) % self._population == 0:
            generation = (number + 1) // self._population
            self._writer.add_figure("search/front", _figure(self._seen, []), generation)

    def chosen(self, names: Sequence[str], sizes: Sequence[int], point: Point) -> None:
        """Write what each feature was left, and close."""
        for name, size, kept, width in zip(names, sizes, point.shape.kept, point.shape.widths, strict=True):
            self._writer.add_scalar(f"feature_width/{name}", width, 0)
            self._writer.add_scalar(f"feature_rows_kept/{name}", kept / size, 0)
        self._writer.close()


def write_front(
    folder: Path,
    names: Sequence[str],
    full_bytes: int,
    points: Sequence[Point],
    seen: Sequence[Sequence[float]],
) -> None:
    """Write ``front.csv`` and ``front.png``.

    Args:
        folder: where to.
        names: of the features.
        full_bytes: of the full table.
        points: the front.
        seen: AUC on the search's rows and bytes of every candidate.
    """
    with written(folder / "front.csv") as beside, beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["bytes", "share", "valid_auc", *(f"{n}:{what}" for n in names for what in ("rows", "width"))]
        )
        for point in points:
            shape = [x for pair in zip(point.shape.kept, point.shape.widths, strict=True) for x in pair]
            table.writerow([point.nbytes, f"{point.nbytes / full_bytes:.4f}", f"{point.auc:.6f}", *shape])
    cloud = [(nbytes / full_bytes, auc) for auc, nbytes in seen]
    with written(folder / "front.png") as beside:
        _figure(cloud, [(p.nbytes / full_bytes, p.auc) for p in points]).savefig(
            beside, format="png", dpi=150
        )


def _figure(cloud: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if cloud:
        sizes, aucs = zip(*((100 * x, y) for x, y in cloud), strict=True)
        axes.scatter(sizes, aucs, s=8, color="0.7", label="candidates, on a part of the rows")
    if points:
        xs, ys = zip(*((100 * x, y) for x, y in points), strict=True)
        axes.step(xs, ys, where="post", marker="o", markersize=3, label="front, on rows not seen before")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("serving bytes, of the full table")
    axes.set_ylabel("validation AUC in the supernet")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
