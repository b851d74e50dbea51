"""Product codes: a vector is cut into parts, and each part is one of the pieces of a small shared codebook.

Jégou, Douze & Schmid, "Product quantization for nearest neighbor search", TPAMI 2011. All features of a group
share one codebook: a codebook each would cost codes · dim floats per feature, more than most features have
ids. Features so small that rows of their own are cheap stay full.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.base import FrozenTable
from slimtab.tables.parts.codes import widen_codes
from slimtab.tables.parts.packing import read_words
from slimtab.tables.parts.product_config import ProductConfig
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.usage import CodeUse

_CHUNK = 256  # queries compared with the codebook at a time: their distances stay in the cache
_CODED = 1 << 18  # ids whose codes are read at a time for statistics
_MOST_INT32 = 2**31  # pieces that can be numbered so


def nearest_pieces(queries: Tensor, codebook: Tensor) -> Tensor:
    """Return which piece is closest to each part of ``queries``: [N, parts] uint8.

    Args:
        queries: [N, parts · w] float32.
        codebook: pieces [parts, codes, w].
    """
    parts, _, width = codebook.shape
    if queries.is_meta or len(queries) == 0:  # on the meta device shapes are all there is
        return queries.new_empty(len(queries), parts, dtype=torch.uint8)
    # |q − c|² without |q|², which is the same for all pieces.
    half_norm, across = 0.5 * codebook.square().sum(dim=2)[:, None], codebook.transpose(1, 2)
    found = []
    for chunk in torch.split(queries, _CHUNK):
        # Always of one size, for a product of another may round differently and turn a near tie around.
        full = F.pad(chunk, (0, 0, 0, _CHUNK - len(chunk))).view(_CHUNK, parts, width).transpose(0, 1)
        distance = torch.baddbmm(half_norm, full, across, alpha=-1)
        found.append(distance.argmin(dim=2)[:, : len(chunk)].to(torch.uint8))
    return torch.cat(found, dim=1).t()


class FrozenProductCodes(FrozenTable):
    """Packed codes of hot ids, then of the others; pieces of the codebook, then those of full rows.

    The pieces [parts · S, w] hold for each part its ``codes`` pieces and that part of the full rows, S
    together. So every id is read alike: piece number ``part · S + code + own row``, where a full feature's
    codes have no bits and a coded feature has no own row.
    """

    codebooks = ("pieces",)

    packed: Tensor
    pieces: Tensor
    full: Tensor
    own: Tensor
    hot_ids: Tensor
    hot_first: Tensor
    cold_first: Tensor

    def __init__(
        self, config: ProductConfig, features: Sequence[Feature], pieces: Tensor, hot: Tensor, cold: Tensor
    ) -> None:
        super().__init__()
        self.parts, self.codes, self.bits = config.parts, config.codes, config.code_bits()
        self.register_buffer("packed", torch.cat([hot, cold]))
        self.register_buffer("pieces", pieces)
        full = torch.tensor([f.num_ids for f in features]) * torch.tensor(config.exact)
        hot_ids, cold_ids = (torch.tensor(ids) for ids in config.coded_ids(features))
        self.coded_ids = [sum(ids) for ids in zip(*config.coded_ids(features), strict=True)]
        tensors = {
            # All ones or all zeros, to be combined with numbers bit by bit.
            "full": -torch.tensor(config.exact).long(),
            "own": torch.where(torch.tensor(config.exact), config.codes + full.cumsum(0) - full, 0),
            "hot_ids": hot_ids,
            # The bits at which id 0 would have its codes in either tier.
            "hot_first": config.parts * self.bits[0] * (hot_ids.cumsum(0) - hot_ids),
            "cold_first": 8 * len(hot)
            + config.parts * self.bits[1] * (cold_ids.cumsum(0) - cold_ids - hot_ids),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self.any_exact, self.any_cold = any(config.exact), len(cold) > 0

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.packed, self.pieces, ids, slot):
            from slimtab.kernels.product import read_product

            tiers = self.full, self.own, self.hot_ids, (self.hot_first, self.cold_first), self.bits
            return read_product(self.packed, self.pieces, *tiers, self.parts, ids, slot)
        full = self.full.index_select(0, slot) if self.any_exact else None
        # In place, for a fresh [N, parts] costs more than the arithmetic that fills it.
        numbers = torch.int32 if len(self.pieces) <= _MOST_INT32 else torch.int64
        address = self._codes(ids, slot, full).to(numbers)
        address += (len(self.pieces) // self.parts * torch.arange(self.parts, device=ids.device)).to(numbers)
        if full is not None:
            address += self.own.index_select(0, slot).add_(full & ids).to(numbers)[:, None]
        return read_rows(self.pieces, address.flatten()).view(-1, address.shape[1] * self.pieces.shape[1])

    def stats(self) -> dict[str, float]:
        """Return how many pieces of the codebook are used by ids that have codes, and how evenly."""
        if not self.codes:
            return {}
        used = CodeUse([self.codes] * self.parts)
        for slot, size in enumerate(self.coded_ids):
            for ids in torch.split(torch.arange(size, device=self.packed.device), _CODED):
                used.add(self._codes(ids, torch.full_like(ids, slot), None).long())
        return used.stats()

    def _codes(self, ids: Tensor, slot: Tensor, full: Tensor | None) -> Tensor:
        """Return codes [N, parts] uint8; zeros for ids of full features."""
        # No ids have strides that cannot be seen as bytes; exporters always have some.
        if not self.codes or (not torch.compiler.is_compiling() and len(ids) == 0):
            return ids.new_zeros(len(ids), self.parts, dtype=torch.uint8)
        first = self.hot_first.index_select(0, slot).add_(ids * (self.parts * self.bits[0]))
        bits: int | Tensor = self.bits[0]
        if self.any_cold:
            hot = ids < self.hot_ids.index_select(0, slot)
            cold_first = self.cold_first.index_select(0, slot).add_(ids * (self.parts * self.bits[1]))
            first, bits = torch.where(hot, first, cold_first), torch.where(hot, self.bits[0], self.bits[1])
        if full is not None:
            first.bitwise_and_(~full)
        # Eight codes are a word, and fill whole bytes whatever their bits.
        starts = [first + group * bits if group else first for group in range(0, self.parts, 8)]
        words = torch.stack([read_words(self.packed, start) for start in starts], dim=1)
        if full is not None:
            words.bitwise_and_(~full[:, None])
        codes = widen_codes(words, self.bits[0])
        if self.any_cold:
            codes = torch.where(hot[:, None], codes, widen_codes(words, self.bits[1]))
        return codes.view(torch.uint8)[:, : self.parts]
