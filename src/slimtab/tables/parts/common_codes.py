"""Codewords that all features share, one from each of a few codebooks for an id."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from slimtab import kernels
from slimtab.tables.base import FrozenTable
from slimtab.tables.parts.packing import pack, unpack
from slimtab.tables.parts.reading import sum_rows
from slimtab.tables.parts.residual import level_starts
from slimtab.tables.parts.usage import CodeUse

_CHUNK = 1 << 18  # ids at a time


class FrozenCommonCodes(FrozenTable):
    """Packed codes and half-precision codewords."""

    codebooks = ("codewords",)

    codes: Tensor
    codewords: Tensor
    offset: Tensor
    start: Tensor
    shift: Tensor
    mask: Tensor

    def __init__(self, codes: Tensor, codewords: Tensor, levels: Sequence[int], offset: Tensor) -> None:
        """Pack ``codes`` [ids, levels], integers."""
        super().__init__()
        self.bits = sum(levels)
        # A code in each byte, as budgets make it.
        self.in_bytes = all(bits == 8 for bits in levels[:-1])
        self.ids, self.levels = len(codes), levels
        shifts = list(accumulate(levels, initial=0))[:-1]
        self.register_buffer("start", torch.tensor(level_starts(levels)[:-1]), persistent=False)
        self.register_buffer("shift", torch.tensor(shifts), persistent=False)
        self.register_buffer("mask", torch.tensor([(1 << b) - 1 for b in levels]), persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        words = [(chunk << self.shift).sum(dim=1, keepdim=True) for chunk in torch.split(codes, _CHUNK)]
        self.register_buffer("codes", pack(torch.cat(words), self.bits))
        self.register_buffer("codewords", codewords.half())

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.codes, self.codewords, ids, slot, floats=torch.float16):
            from slimtab.kernels.residual import sum_codewords

            wide = torch.full_like(self.offset, self.bits)
            levels = torch.full_like(self.offset, len(self.levels))
            shift, mask, start = (code.repeat(len(wide), 1) for code in (self.shift, self.mask, self.start))
            tables = self.offset * wide, wide, levels, (shift, mask, start)
            return sum_codewords(self.codes, self.codewords, *tables, ids, slot)
        words = unpack(self.codes, self.offset.index_select(0, slot).add_(ids), 1, self.bits)
        if self.in_bytes:
            codes = words.view(torch.uint8)[:, : len(self.start)] + self.start.int()
        else:
            codes = ((words >> self.shift) & self.mask) + self.start
        return sum_rows(self.codewords.float(), codes)

    def stats(self) -> dict[str, float]:
        """Return how many codewords are used, and how evenly."""
        used = CodeUse(1 << bits for bits in self.levels)
        for rows in torch.split(torch.arange(self.ids, device=self.codes.device), _CHUNK):
            used.add((unpack(self.codes, rows, 1, self.bits) >> self.shift) & self.mask)
        return used.stats()
