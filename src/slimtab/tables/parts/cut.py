"""Tables cut to size: rows that were not kept read as zeros, and the others have a width per feature.

What is served is a bitmap of the rows kept, with ranks, and their floats without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab import kernels
from slimtab.tables.base import FrozenTable
from slimtab.tables.parts.bitmap import bitmap_bytes, pack_bitmap, position
from slimtab.tables.parts.narrow import NarrowRows, by_width
from slimtab.tables.parts.starts import starts
from slimtab.tables.parts.windows import read_windows
from slimtab.tables.rows.base import RowsFactory


def cut_bytes(sizes: Sequence[int], kept: Sequence[int], widths: Sequence[int], dim: int) -> int:
    """Return serving bytes: floats, the ``dim`` more that a read may touch, and :func:`fixed_bytes`.

    Args:
        sizes: ids of each feature.
        kept: rows of each that are kept.
        widths: of those rows.
        dim: output width.
    """
    floats = dim + sum(rows * width for rows, width in zip(kept, widths, strict=True))
    return 4 * floats + fixed_bytes(sizes)


def fixed_bytes(sizes: Sequence[int]) -> int:
    """Return the bytes of bitmap and of the numbers that each feature has, whatever is kept."""
    return bitmap_bytes(sum(sizes)) + 16 * len(sizes)


class FrozenCut(FrozenTable):
    """Kept rows in one array, the features with narrow ones first."""

    words: Tensor
    ranks: Tensor
    values: Tensor
    widths: Tensor
    base: Tensor
    offset: Tensor

    def __init__(
        self,
        words: Tensor,
        ranks: Tensor,
        values: Tensor,
        widths: Tensor,
        base: Tensor,
        offset: Tensor,
        dim: int,
    ) -> None:
        super().__init__()
        self.dim = dim
        for name, buffer in (
            ("words", words), ("ranks", ranks), ("values", values), ("widths", widths), ("base", base)
        ):  # fmt: skip
            self.register_buffer(name, buffer)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]; zeros for rows that were not kept."""
        if kernels.ready(ids, slot, self.values):
            from slimtab.kernels import windows as compiled

            features = self.offset, self.base, self.widths
            return compiled.read_kept(self.values, (self.words, self.ranks), *features, ids, slot, self.dim)
        rank, kept = position(self.words, self.ranks, ids + self.offset.index_select(0, slot))
        places = torch.addcmul(self.base.index_select(0, slot), rank, self.widths.index_select(0, slot))
        # Coordinates beyond a feature's width are zero, and behind the features' masks stands one of zeros.
        columns = torch.arange(self.dim, device=ids.device) < F.pad(self.widths, (0, 1))[:, None]
        mask = F.embedding(torch.where(kept, slot, len(self.widths)), columns.float())
        return read_windows(self.values, places.clamp_(min=0), self.dim).mul_(mask)


class CutRows(nn.Module):
    """What a feature keeps of its rows, for training.

    Args:
        sizes: ids of each feature.
        kept: rows of each that are kept.
        widths: of those rows.
        dim: output width.
        make_rows: makes the storage.
    """

    words: Tensor
    ranks: Tensor
    offset: Tensor
    first: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        kept: Sequence[int],
        widths: Sequence[int],
        dim: int,
        make_rows: RowsFactory,
    ) -> None:
        super().__init__()
        self.sizes, self.kept, self.widths, self.dim = tuple(sizes), tuple(kept), tuple(widths), dim
        self.rows = NarrowRows(kept, widths, make_rows, 0.0)
        words, ranks = pack_bitmap(torch.zeros(sum(sizes), dtype=torch.bool))
        self.register_buffer("words", words)
        self.register_buffer("ranks", ranks)
        self.register_buffer("offset", starts(sizes), persistent=False)
        self.register_buffer("first", starts(kept), persistent=False)

    @torch.no_grad()
    def assign(self, mask: Tensor, values: Tensor) -> None:
        """Keep the rows of ``values`` [n, dim] that ``mask`` [n] bool says, cut to their widths."""
        self.words, self.ranks = pack_bitmap(mask)
        parts = torch.split(values[mask], list(self.kept))
        self.rows.assign([part[:, :width] for part, width in zip(parts, self.widths, strict=True)])

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]; zeros for rows that were not kept."""
        rank, kept = position(self.words, self.ranks, ids + self.offset.index_select(0, slot))
        place = kept.nonzero().squeeze(1)
        slots = slot.index_select(0, place)
        rows = self.rows(rank.index_select(0, place) - self.first.index_select(0, slots), slots)
        vectors = torch.zeros(len(ids), self.dim, device=ids.device)
        return vectors.index_copy(0, place, F.pad(rows, (0, self.dim - rows.shape[1])))

    def freeze(self) -> FrozenCut:
        """Return buffers alone, a copy."""
        widths = torch.tensor(self.widths, device=self.words.device)
        begin = torch.tensor(by_width(self.kept, self.widths), device=self.words.device)
        values = F.pad(self.rows.packed(), (0, self.dim))
        # Rows are numbered over all features; each feature's begin where those before it end.
        base = begin - self.first * widths
        return FrozenCut(
            self.words.clone(), self.ranks.clone(), values, widths, base, self.offset.clone(), self.dim
        )
