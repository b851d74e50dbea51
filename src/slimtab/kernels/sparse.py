"""Element-sparse rows: which elements are there is told by bits, and those that are follow one another."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.intrinsics import count_ones, prefetch_block
from slimtab.kernels.ranks import rank_of
from slimtab.kernels.vectors import expand4

_ALL = np.uint64(2**64 - 1)


@functools.cache
def _loop(dim: int, in_block: int, in_row: int) -> Any:
    """Return a loop for blocks of ``in_block`` rows, or rows of ``in_row`` words, whichever is 1."""

    @kernel
    def sparse(begin, end, words, ranks, bits, starts, values, offset, ids, slot, out):
        rows, before = np.empty(BLOCK, dtype=np.int64), np.empty(BLOCK, dtype=np.int64)
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            for i in range(count):
                address = offset[row_of(slot[first + i], len(offset))] + ids[first + i]
                there, rank = rank_of(words, ranks, address)
                rows[i] = there * (rank + 1)  # row 0 holds nothing
                row_of(rows[i] // in_block, len(starts))
                prefetch_block(bits, in_row * (rows[i] // in_block))
                prefetch_block(starts, rows[i] // in_block)
            for i in range(count):
                block = rows[i] // in_block
                shift = np.uint64(dim * (rows[i] - block * in_block))
                own = bits[block * in_row]
                before[i] = starts[block] + count_ones(own & ~(_ALL << shift)) + 1
                prefetch_block(values, before[i])
            for i in range(count):
                block, start = rows[i] // in_block, before[i]
                shift = np.uint64(dim * (rows[i] - block * in_block))
                for word in range(in_row):
                    left = bits[block * in_row + word] >> shift
                    held = left & (_ALL >> np.uint64(64 - min(dim - 64 * word, 64)))
                    row_of(start - 1 + count_ones(held), len(values))
                    for column in range(64 * word, min(dim, 64 * word + 64), 4):
                        place = (first + i) * dim + column
                        if column + 4 <= dim:
                            expand4(out, place, values, start, left)
                        else:
                            for single in range(dim - column):
                                there = np.int64((left >> np.uint64(single)) & np.uint64(1))
                                out[place + single] = values[start] if there else np.uint32(0)
                                start += there
                        start += count_ones(left & np.uint64(15))
                        left >>= np.uint64(4)

    return sparse


def read_sparse(
    bitmap: tuple[Tensor, Tensor],
    bits: Tensor,
    starts: Tensor,
    values: Tensor,
    offset: Tensor,
    ids: Tensor,
    slot: Tensor,
    dim: int,
) -> Tensor:
    """Return vectors [N, dim] of what :class:`~slimtab.tables.parts.sparse.FrozenSparse` holds.

    Args:
        bitmap: words and ranks of the rows that hold something.
        bits: of the elements of each block [blocks, words] int64.
        starts: values before each block [blocks] int32.
        values: a zero, and those that are there, float32.
        offset: [F] int64.
        ids: [N] int64.
        slot: [N] int64.
        dim: elements of a row.
    """
    out = values.new_empty(len(ids), dim)
    loop, words = _loop(dim, max(1, 64 // dim), bits.shape[1]), torch.uint64
    in_parts(
        loop, len(ids), *bitmap, bits.view(-1).view(words), starts, values.view(torch.uint32), offset,
        ids, slot, out.view(-1).view(torch.uint32),
    )  # fmt: skip
    return out
