"""Residual codes with codewords for each feature alone: where features differ, common ones serve none well.

Chen, Guan & Wang, "Approximate nearest neighbor search by residual vector quantization", Sensors 2010, as in
:mod:`slimtab.tables.rq`. Smaller levels pay here: a small feature cannot afford 256 codewords.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.base import FrozenTable
from slimtab.tables.fitted.base import Code
from slimtab.tables.parts.packing import pack, packed_bytes, unpack
from slimtab.tables.parts.starts import starts


@dataclass(frozen=True)
class OwnCodes(Code, method="own_codes"):
    """Settings of :class:`FrozenOwnCodes`.

    Attributes:
        bits: of each level.
        levels: codewords that are added up.
    """

    bits: int
    levels: int

    @property
    def codewords(self) -> int:
        """Codewords of a feature."""
        return self.levels << self.bits

    def nbytes(self, ids: int, dim: int) -> int:
        """Return what a feature of ``ids`` ids takes; a few bytes more stand at the end of all."""
        return -(-ids * self.bits * self.levels // 8) + 2 * dim * self.codewords

    def empty(self, features: Sequence[Feature], dim: int) -> FrozenTable:
        """See :class:`~slimtab.tables.fitted.Code`."""
        ids = [feature.num_ids for feature in features]
        codes = torch.zeros(packed_bytes(sum(ids), self.levels, self.bits), dtype=torch.uint8)
        codewords = torch.zeros(len(ids) * self.codewords, dim, dtype=torch.float16)
        return FrozenOwnCodes(self, codes, codewords, starts(ids))


class FrozenOwnCodes(FrozenTable):
    """Packed codes of all features, and the half-precision codewords of each."""

    codebooks = ("codewords",)

    codes: Tensor
    codewords: Tensor
    offset: Tensor
    level: Tensor

    def __init__(self, config: OwnCodes, codes: Tensor, codewords: Tensor, offset: Tensor) -> None:
        """Take packed codes, codewords [features · levels · 2^bits, dim], and where features begin [F]."""
        super().__init__()
        self.bits, self.levels, self.own = config.bits, config.levels, config.codewords
        self.register_buffer("codes", codes)
        self.register_buffer("codewords", codewords)
        self.register_buffer("offset", offset, persistent=False)
        level = torch.tensor([*accumulate([1 << self.bits] * (self.levels - 1), initial=0)])
        self.register_buffer("level", level, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        codes = unpack(self.codes, ids + self.offset.index_select(0, slot), self.levels, self.bits)
        address = codes + self.level + (slot * self.own)[:, None]
        return F.embedding_bag(address, self.codewords.float(), mode="sum")


def own_codes(config: OwnCodes, codes: Sequence[Tensor], codewords: Sequence[Tensor]) -> FrozenOwnCodes:
    """Join the codes [ids, levels] and codewords [levels · 2^bits, dim] of several features."""
    packed = pack(torch.cat(list(codes)), config.bits)
    return FrozenOwnCodes(config, packed, torch.cat(list(codewords)).half(), starts(map(len, codes)))
