"""Which rows were kept, as one bit each, and where a kept row stands among the kept ones.

Jacobson, "Space-efficient static trees and graphs", FOCS 1989: a bitmap answers whether a row is there, and
the number of rows kept before each block of it leaves only the bits of one block to be counted. A block is
one word of 64 bits, so a look-up costs two random reads, of 12 bytes for 64 rows: 1.5 bits a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 64  # rows of a word


def bitmap_bytes(rows: int) -> int:
    """Return the bytes of the bitmap and the ranks of ``rows`` rows: an int64 and an int32 for each 64."""
    return 12 * -(-rows // _BLOCK)


def pack_bitmap(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Pack ``kept`` [n] bool.

    Returns:
        Words [⌈n / 64⌉] int64, the first row in the lowest bit of the first; and ranks [⌈n / 64⌉] int32, how
        many rows are kept before each word.
    """
    blocks = F.pad(kept, (0, -len(kept) % _BLOCK)).view(-1, _BLOCK)
    counts = blocks.sum(dim=1)
    return pack_words(blocks), (torch.cumsum(counts, 0) - counts).int()


def pack_words(bits: Tensor) -> Tensor:
    """Pack ``bits`` [M, 64] bool into words [M] int64, the first bit the lowest."""
    weights = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=bits.device)
    packed = (bits.reshape(-1, 8) * weights).sum(dim=1, dtype=torch.uint8)
    return packed.view(torch.int64)


def position(words: Tensor, ranks: Tensor, address: Tensor) -> tuple[Tensor, Tensor]:
    """Look up where rows stand among those kept.

    ``position + kept`` numbers the rows of a table whose row 0 is what a row that was not kept reads.

    Args:
        words: of :func:`pack_bitmap`.
        ranks: of :func:`pack_bitmap`.
        address: [N] int64 in [0, n).

    Returns:
        How many rows are kept before each of those addressed [N] int64, 0 for a row that is not kept; and
        whether it is kept [N] bool.
    """
    block = address >> 6
    # The row's own bit becomes the sign, what comes after it falls out at the top.
    bits = words.index_select(0, block) << (~address & (_BLOCK - 1))
    kept = bits < 0
    bits <<= 1
    return count_ones(bits).add_(ranks.index_select(0, block)).mul_(kept).long(), kept


def count_ones(bits: Tensor) -> Tensor:
    """Return how many bits of each of ``bits`` [N] int64 are set, [N] int32."""
    # Counted in parallel: in pairs, in fours, and from there on in half the width, as eight ones fit four
    # bits. The product adds up the four bytes in the highest one.
    pairs = bits - ((bits >> 1) & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333).add_((pairs >> 2).bitwise_and_(0x3333333333333333))
    ones = (fours >> 32).add_(fours).int()
    ones = (ones & 0x0F0F0F0F).add_((ones >> 4).bitwise_and_(0x0F0F0F0F))
    ones *= 0x01010101
    ones >>= 24
    return ones
