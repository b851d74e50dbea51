"""Clustered compositional embeddings: in each column a row that is pointed at and one found by hashing."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.hashing import mix_block, place_in
from slimtab.kernels.intrinsics import load_word, prefetch
from slimtab.kernels.rows import sum_rows


@functools.cache
def _loop(columns: int, width: int, bits: int) -> Any:
    mask = np.uint64((1 << bits) - 1)

    @kernel
    def cce(begin, end, weight, packed, salt, offset, ids, slot, out):
        words = np.zeros((columns, BLOCK), dtype=np.uint64)
        firsts = np.zeros(BLOCK, dtype=np.int64)
        starts = np.empty((BLOCK * columns, 2), dtype=np.int64)
        rows = len(weight) // (2 * columns * width)
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            mix_block(ids, slot, salt, first, count, columns, words)
            for i in range(count):
                if bits:
                    number = offset[row_of(slot[first + i], len(offset))] + ids[first + i]
                    firsts[i] = number * (columns * bits)
                    row_of((firsts[i] + (columns - 1) * bits) >> 3, len(packed) - 7)
                    prefetch(packed, firsts[i] >> 3)
                for column in range(columns):
                    row = rows * (columns + column) + place_in(words[column, i], rows)
                    starts[i * columns + column, 1] = width * row
                    prefetch(weight, width * row)
            for i in range(count):
                for column in range(columns):
                    row = rows * column
                    if bits:
                        start = firsts[i] + column * bits
                        word = load_word(packed, start >> 3) >> np.uint64(start & 7)
                        row += np.int64(row_of(np.int64(word & mask), rows))
                    starts[i * columns + column, 0] = width * row
                    prefetch(weight, width * row)
            for each in range(count * columns):
                sum_rows(weight, starts, each, 2, width, out, (first * columns + each) * width)

    return cce


def read_cce(
    weight: Tensor, packed: Tensor, salt: Tensor, offset: Tensor, bits: int, ids: Tensor, slot: Tensor
) -> Tensor:
    """Return vectors [N, columns · w].

    Args:
        weight: rows pointed at, column after column, then hashed ones [2 · columns · R, w] float32.
        packed: ``columns`` codes for each id, uint8.
        salt: [F, columns] int64.
        offset: where each feature's ids begin [F] int64.
        bits: of a code.
        ids: [N] int64.
        slot: [N] int64.
    """
    columns, width = salt.shape[1], weight.shape[1]
    out = weight.new_empty(len(ids), columns * width)
    loop = _loop(columns, width, bits)
    in_parts(loop, len(ids), weight.view(-1), packed, salt, offset, ids, slot, out.view(-1))
    return out
