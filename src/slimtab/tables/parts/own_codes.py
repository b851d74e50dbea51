"""Codewords for each feature alone: common ones serve none well where features differ.

Each feature has a shape, the bits and the number of its levels, and codewords for it. Large features can
afford many codewords and few bits of an id, small ones the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab import kernels
from slimtab.tables.base import FrozenTable
from slimtab.tables.parts.packing import PADDING, pack, packed_bytes, read_words
from slimtab.tables.parts.reading import sum_rows
from slimtab.tables.parts.residual import encode, encode_all
from slimtab.tables.parts.starts import starts
from slimtab.tables.parts.usage import CodeUse


class Shape(NamedTuple):
    """How a feature is coded: ``levels`` codewords are added up, each chosen among 2^bits."""

    bits: int
    levels: int

    @property
    def bits_of_levels(self) -> tuple[int, ...]:
        """Bits of each level."""
        return (self.bits,) * self.levels

    @property
    def codewords(self) -> int:
        """Codewords in all."""
        return self.levels << self.bits

    def code_bytes(self, ids: int) -> int:
        """Return bytes of the codes of ``ids`` ids; they begin and end on a byte."""
        return packed_bytes(ids, self.levels, self.bits) - PADDING

    def nbytes(self, ids: int, dim: int) -> int:
        """Return bytes of codes, and of codewords in half precision."""
        return self.code_bytes(ids) + 2 * dim * self.codewords


class FrozenOwnCodes(FrozenTable):
    """Packed codes of all features, and the half-precision codewords of each."""

    codebooks = ("codewords",)

    codes: Tensor
    codewords: Tensor
    first: Tensor
    levels: Tensor
    wide: Tensor
    start: Tensor
    shift: Tensor
    mask: Tensor

    def __init__(
        self, shapes: Sequence[Shape], sizes: Sequence[int], codes: Tensor, codewords: Tensor
    ) -> None:
        """Take packed codes, feature after feature, and their codewords [Σ levels · 2^bits, dim]."""
        super().__init__()
        self.shapes, self.sizes = tuple(shapes), tuple(sizes)
        self.register_buffer("codes", codes)
        self.register_buffer("codewords", codewords.half())
        lengths = [shape.code_bytes(ids) for shape, ids in zip(shapes, sizes, strict=True)]
        # A feature of fewer levels than others adds nothing for the rest: a code of no bits, a row of zeros.
        level = torch.arange(max(shape.levels for shape in shapes))
        bits, levels = torch.tensor(list(shapes)).t()[:, :, None]
        none = level >= levels
        start = starts(shape.codewords for shape in shapes)[:, None] + (level << bits)
        tables = {
            "first": 8 * starts(lengths),
            "levels": levels.squeeze(1),
            "wide": torch.tensor([shape.bits * shape.levels for shape in shapes]),
            "start": start.masked_fill(none, len(codewords)),
            "shift": (level * bits).masked_fill(none, 0),
            "mask": ((1 << bits) - 1).expand_as(none).masked_fill(none, 0),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.codes, self.codewords, ids, slot, floats=torch.float16):
            from slimtab.kernels.residual import sum_codewords

            tables = self.first, self.wide, self.levels, (self.shift, self.mask, self.start)
            return sum_codewords(self.codes, self.codewords, *tables, ids, slot)
        first = self.first.index_select(0, slot).add_(ids * self.wide.index_select(0, slot))
        words = read_words(self.codes, first)[:, None]
        codes = (words >> self.shift.index_select(0, slot)).bitwise_and_(self.mask.index_select(0, slot))
        codewords = F.pad(self.codewords.float(), (0, 0, 0, 1))
        return sum_rows(codewords, codes.add_(self.start.index_select(0, slot)))

    def stats(self) -> dict[str, float]:
        """Return how many codewords are used, and how evenly."""
        use = CodeUse(1 << shape.bits for shape in self.shapes for _ in range(shape.levels))
        place = 0
        for slot, (shape, ids) in enumerate(zip(self.shapes, self.sizes, strict=True)):
            rows = torch.arange(ids, device=self.codes.device)
            words = read_words(self.codes, self.first[slot] + rows * self.wide[slot])[:, None]
            use.add((words >> self.shift[slot, : shape.levels]) & self.mask[slot, : shape.levels], place)
            place += shape.levels
        return use.stats()


def freeze_own_codes(shapes: Sequence[Shape], values: Sequence[Tensor], codewords: Tensor) -> FrozenOwnCodes:
    """Return ``values`` [ids, dim] of each feature as codes, for codewords [Σ levels · 2^bits, dim]."""
    parts = zip(values, torch.split(codewords, [shape.codewords for shape in shapes]), shapes, strict=True)
    codes = [encode_all(own, words, shape.bits_of_levels) for own, words, shape in parts]
    return pack_own_codes(shapes, codes, codewords)


def pack_own_codes(shapes: Sequence[Shape], codes: Sequence[Tensor], codewords: Tensor) -> FrozenOwnCodes:
    """Join the codes [ids, levels] of each feature, and the codewords [Σ levels · 2^bits, dim] of all."""
    packed = [pack(own, shape.bits) for shape, own in zip(shapes, codes, strict=True)]
    whole = torch.cat([own[:-PADDING] for own in packed] + [packed[-1][-PADDING:]])
    return FrozenOwnCodes(shapes, list(map(len, codes)), whole, codewords)


def sum_own_codes(shapes: Sequence[Shape], rows: Tensor, slot: Tensor, codewords: Tensor) -> Tensor:
    """Code ``rows`` [N, dim], each with the codewords of its feature ``slot`` [N], and return sums [N, dim].

    Gradients reach the codewords [Σ levels · 2^bits, dim].
    """
    order = slot.argsort(stable=True)
    parts = torch.split(rows.detach()[order], torch.bincount(slot, minlength=len(shapes)).tolist())
    address = []
    begins = starts(shape.codewords for shape in shapes).tolist()
    # Feature by feature, for one product of all rows and all codewords would be F times the work.
    for part, shape, start in zip(parts, shapes, begins, strict=True):
        words = codewords.detach()[start : start + shape.codewords]
        level = torch.arange(shape.levels, device=rows.device) << shape.bits
        address.append((encode(part, words, shape.bits_of_levels) + level + start).flatten())
    levels = torch.tensor([shape.levels for shape in shapes], device=rows.device)[slot[order]]
    sums = F.embedding_bag(torch.cat(address), codewords, levels.cumsum(0) - levels, mode="sum")
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=rows.device))
    return sums.index_select(0, place)


def bytes_by_feature(shapes: Sequence[Shape], sizes: Sequence[int], dim: int) -> list[int]:
    """Return what each feature of so many ids serves; the last has the padding."""
    each = [shape.nbytes(ids, dim) for shape, ids in zip(shapes, sizes, strict=True)]
    return [*each[:-1], each[-1] + PADDING]
