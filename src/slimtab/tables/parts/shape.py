"""The shape a table is cut to: which rows stay, and how wide each feature's are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from slimtab.tables.parts.knapsack import choose_widths


@dataclass(frozen=True)
class Shape:
    """What is kept.

    Attributes:
        kept: rows of each feature.
        widths: of those rows, 1 or more.
        mask: which rows [n] bool, feature after feature; None where only their numbers are known.
    """

    kept: tuple[int, ...]
    widths: tuple[int, ...]
    mask: Tensor | None = None

    @property
    def floats(self) -> int:
        """Floats of all rows kept."""
        return sum(rows * width for rows, width in zip(self.kept, self.widths, strict=True))


class Limits(Protocol):
    """What a shape must respect: room for ``floats``, and whether rows and columns may be cut at all."""

    @property
    def floats(self) -> int:
        """Room, in floats."""

    rows_are_cut: ClassVar[bool]
    columns_are_cut: ClassVar[bool]


def even_shape(sizes: Sequence[int], dim: int, limits: Limits) -> Shape:
    """Return a shape of one width, made of the sizes alone, that fills the room as well as one can.

    Frequent ids have low numbers, and stay.
    """
    total = sum(sizes)
    if not limits.rows_are_cut:
        width = min(dim, limits.floats // total)
        return widened(Shape(tuple(sizes), (width,) * len(sizes)), dim, limits.floats)
    width = (
        min(dim, -(-limits.floats // total), limits.floats // len(sizes)) if limits.columns_are_cut else dim
    )
    rows = min(total, limits.floats // width)
    spare = rows - len(sizes)  # a row for each feature, and the others by their sizes
    kept = [1 + max(0, spare) * (size - 1) // max(1, total - len(sizes)) for size in sizes]
    for slot in sorted(range(len(sizes)), key=lambda slot: kept[slot] - sizes[slot])[: rows - sum(kept)]:
        kept[slot] += 1  # what rounding down left over
    return Shape(tuple(kept), (width,) * len(sizes))


def widened(shape: Shape, dim: int, room: int) -> Shape:
    """Return a shape whose features grow into the room it leaves, the narrowest first.

    Args:
        shape: what is kept for certain.
        dim: width of the widest.
        room: floats, of which ``shape`` takes some.
    """
    widths, left = list(shape.widths), room - shape.floats
    growing = set(range(len(widths)))
    while growing:
        slot = min(growing, key=lambda slot: (widths[slot], -shape.kept[slot], slot))
        if widths[slot] == dim or shape.kept[slot] > left:
            growing.remove(slot)
        else:
            widths[slot] += 1
            left -= shape.kept[slot]
    return replace(shape, widths=tuple(widths))


def richest_shape(energy: Tensor, sizes: Sequence[int], limits: Limits) -> Shape:
    """Return the shape that keeps the most energy.

    For every width the rows are kept that there is room for at that width, the richest per float first; then
    the widths of all features are chosen anew for those rows.

    Args:
        energy: [n, dim], of each coordinate of each row; rows without any are never kept.
        sizes: ids of each feature.
        limits: room, and what may be cut.
    """
    dim, room = energy.shape[1], limits.floats
    rich = energy.sum(dim=1)
    order = torch.argsort(rich, descending=True, stable=True)
    worth = int((rich > 0).sum())
    best, most = None, -1.0
    for width in range(1, dim + 1) if limits.columns_are_cut else [dim]:
        mask = torch.ones(len(rich), dtype=torch.bool, device=energy.device)
        if limits.rows_are_cut:
            mask[order[min(worth, room // width) :]] = False
        shape, sums = shape_of(mask, energy, sizes, room, limits)
        kept = float(sum(sums[slot, :w].sum() for slot, w in enumerate(shape.widths)))
        if kept > most:
            best, most = shape, kept
    assert best is not None
    return best


def shape_of(
    mask: Tensor, energy: Tensor, sizes: Sequence[int], room: int, limits: Limits
) -> tuple[Shape, Tensor]:
    """Return the shape that keeps the rows of ``mask`` [n] at the richest widths, and energies [F, dim]."""
    dim = energy.shape[1]
    parts = [
        part[keep]
        for part, keep in zip(torch.split(energy, list(sizes)), torch.split(mask, list(sizes)), strict=True)
    ]
    kept = tuple(len(part) for part in parts)
    sums = torch.stack([part.double().sum(dim=0) for part in parts])
    widths = [dim] * len(sizes)
    if limits.columns_are_cut:
        # A feature that keeps nothing costs nothing; it is taken for one row.
        widths = choose_widths([max(1, rows) for rows in kept], sums.cpu().numpy(), room)
    return Shape(kept, tuple(widths), mask), sums
