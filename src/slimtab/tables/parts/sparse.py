"""Element-sparse rows for serving: bits say which elements are there, the values follow one another.

Compressed sparse rows with a bitmap in place of column numbers, and with ranks (Jacobson, FOCS 1989) in place
of a pointer for each row. A row that holds nothing costs 1.5 bits (:mod:`~slimtab.tables.parts.bitmap`).
Those that hold something have a bit for each element, as many rows to a block of 64 bits as go in whole,
and each block the count of values before it. In bytes per row that holds something, at width 4, 8, 16, 32,
64, 128:

======================  ====  ===  ==  ==  ==  ===
bits and counts         0.75  1.5  3   6   12  20
a pointer for each row  5     5    6   8   12  20
column numbers, ditto   4 and one for each value
======================  ====  ===  ==  ==  ==  ===
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab import kernels
from slimtab.tables.base import FrozenTable
from slimtab.tables.parts.bitmap import bitmap_bytes, count_ones, pack_bitmap, pack_words, position

_WORD, _HALF = 64, 32  # bits


def rows_in_block(dim: int) -> int:
    """Return how many rows of ``dim`` bits a block holds."""
    return max(1, _WORD // dim)


def words_in_block(dim: int) -> int:
    """Return the words of a block: one, or those of a single row of more than 64 bits."""
    return -(-dim // _WORD)


def sparse_bytes(num_rows: int, dim: int, rows: int, elements: int) -> int:
    """Return the bytes of ``elements`` values in ``rows`` of ``num_rows`` rows of width ``dim``.

    There is an empty row for all that hold nothing, and a zero before the first value.
    """
    blocks = -(-(rows + 1) // rows_in_block(dim))
    return bitmap_bytes(num_rows) + (8 * words_in_block(dim) + 4) * blocks + 4 * (elements + 1)


class FrozenSparse(FrozenTable):
    """The values that a mask keeps."""

    words: Tensor
    ranks: Tensor
    bits: Tensor
    starts: Tensor
    values: Tensor
    offset: Tensor

    def __init__(self, values: Tensor, mask: Tensor, rows: int, elements: int, offset: Tensor) -> None:
        """Pack.

        Args:
            values: [n, dim] float32.
            mask: [n, dim] bool, which of them are kept.
            rows: how many rows keep something.
            elements: how many values are kept.
            offset: where each feature's rows begin [F] int64.
        """
        super().__init__()
        self.dim = values.shape[1]
        kept = mask.any(dim=1)
        words, ranks = pack_bitmap(kept)
        in_block, word_bits = rows_in_block(self.dim), _WORD * words_in_block(self.dim)
        some = values.new_zeros(-(-(rows + 1) // in_block) * in_block, self.dim, dtype=torch.bool)
        packed = values.new_zeros(elements + 1)
        if not values.is_meta:
            some[1 : rows + 1] = mask[kept]
            packed[1:] = values[mask]
        blocks = some.view(-1, in_block * self.dim)
        counts = blocks.sum(dim=1)
        bits = pack_words(F.pad(blocks, (0, word_bits - blocks.shape[1])))
        self.register_buffer("words", words)
        self.register_buffer("ranks", ranks)
        self.register_buffer("bits", bits.view(-1, words_in_block(self.dim)))
        self.register_buffer("starts", (torch.cumsum(counts, 0) - counts).int())
        self.register_buffer("values", packed)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.values, ids, slot):
            from slimtab.kernels.sparse import read_sparse

            held = (self.words, self.ranks), self.bits, self.starts, self.values
            return read_sparse(*held, self.offset, ids, slot, self.dim)
        place, kept = position(self.words, self.ranks, ids + self.offset.index_select(0, slot))
        present, before = self._bits(place + kept)
        # The n-th element that is there is the n-th value; those that are not read the zero in front.
        index = torch.cumsum(present, 1, dtype=torch.int32).add_(before[:, None]).mul_(present)
        return self.values.index_select(0, index.view(-1)).view(-1, self.dim)

    def _bits(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return which elements are there [N, dim], 0 or 1, and how many values come before each row [N]."""
        in_block = rows_in_block(self.dim)
        block = row // in_block
        words = F.embedding(block, self.bits)
        before = self.starts.index_select(0, block)
        if in_block > 1:
            shift = (row - block * in_block) * self.dim
            before = before + count_ones(words[:, 0] & ~(-1 << shift))
            words = words >> shift[:, None]
        halves = words.view(torch.int32)[:, : -(-self.dim // _HALF)]  # half the memory to go through
        places = torch.arange(min(self.dim, _HALF), dtype=torch.int32, device=words.device)
        present = (halves[:, :, None] >> places).bitwise_and_(1)
        return present.flatten(1)[:, : self.dim], before
