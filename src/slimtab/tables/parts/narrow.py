"""Rows whose width differs by feature, handed out padded with zeros to one width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab import kernels
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.windows import read_windows
from slimtab.tables.rows.base import Rows, RowsFactory


def by_width(sizes: Sequence[int], widths: Sequence[int]) -> list[int]:
    """Return where each feature's floats start when features lie in one array, the narrow ones first.

    Then a read as wide as the widest feature never runs past the end.
    """
    starts, position = [0] * len(sizes), 0
    for slot in sorted(range(len(sizes)), key=lambda slot: widths[slot]):
        starts[slot] = position
        position += sizes[slot] * widths[slot]
    return starts


def read_narrow(
    values: Tensor, starts: Tensor, widths: Tensor, ids: Tensor, slot: Tensor, width: int
) -> Tensor:
    """Read rows of features packed into one array; one read of ``width`` floats each, the rest set to zero.

    Args:
        values: [M] floats; ``width`` of them follow the start of every row.
        starts: [F] int64, where each feature begins.
        widths: [F] int64, of each feature's rows.
        ids: [N] int64.
        slot: [N] int64.
        width: of the widest feature, at least.

    Returns:
        [N, width].
    """
    if kernels.ready(values, starts, widths, ids, slot):
        from slimtab.kernels import windows as compiled

        return compiled.read_narrow(values, starts, widths, ids, slot, width)
    places = (ids * widths.index_select(0, slot)).add_(starts.index_select(0, slot))
    # Bytes, for a factor of floats would take as long to fetch as the rows.
    kept = (torch.arange(width, device=values.device) < widths[:, None]).to(torch.int8)
    return read_windows(values, places, width).mul_(read_rows(kept, slot))


class NarrowRows(nn.Module):
    """Rows of per-feature widths for training: :class:`~slimtab.tables.rows.base.Rows` per distinct width.

    Args:
        sizes: rows of each feature.
        widths: of each feature's rows.
        make_rows: makes the storage.
        init_std: standard deviation of start values.
    """

    group: Tensor
    first: Tensor

    def __init__(
        self, sizes: Sequence[int], widths: Sequence[int], make_rows: RowsFactory, init_std: float
    ) -> None:
        super().__init__()
        distinct = sorted(set(widths))
        first, total = [], [0] * len(distinct)
        group = [distinct.index(width) for width in widths]
        for size, number in zip(sizes, group, strict=True):
            first.append(total[number])
            total[number] += size
        self.rows = nn.ModuleList(
            make_rows(count, width, init_std) for count, width in zip(total, distinct, strict=True)
        )
        self.width = distinct[-1]
        self.register_buffer("group", torch.tensor(group), persistent=False)
        self.register_buffer("first", torch.tensor(first), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return rows [N, width] of the widest feature's width, padded with zeros."""
        group, address = self.group.index_select(0, slot), ids + self.first.index_select(0, slot)
        order = torch.argsort(group, stable=True)
        counts = torch.bincount(group, minlength=len(self.rows)).tolist()
        places = torch.split(order, counts)
        # A width that nothing asks for is not read, so that its rows are not stepped either.
        parts = [
            F.pad(rows(address[place]), (0, self.width - rows.width))
            for rows, place in zip(self._each(), places, strict=True)
            if len(place)
        ]
        if not parts:
            return self.group.new_zeros(0, self.width, dtype=torch.float32)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return torch.cat(parts).index_select(0, back)

    def assign(self, parts: Sequence[Tensor]) -> None:
        """Replace all rows by ``parts``, [size, width] of each feature."""
        group = self.group.tolist()
        for number, rows in enumerate(self._each()):
            rows.assign(torch.cat([part for part, own in zip(parts, group, strict=True) if own == number]))

    def packed(self) -> Tensor:
        """Return a copy of all rows as one array, features in the order of :func:`by_width`."""
        return torch.cat([rows.values().flatten() for rows in self._each()])

    def _each(self) -> list[Rows]:
        return list(self.rows)  # type: ignore[arg-type]
