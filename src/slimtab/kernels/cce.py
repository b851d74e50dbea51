"""Clustered compositional embeddings: in each column a row that is pointed at and one found by hashing.

With eight rows for an id, and pointers, it pays to find out first which ids stood nearby already.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.hashing import mix, place_in
from slimtab.kernels.intrinsics import load_word, prefetch_block
from slimtab.kernels.repeats import WINDOW, copy_repeats, find_repeats, nothing_seen
from slimtab.kernels.rows import sum_rows


@functools.cache
def _loop(columns: int, width: int, bits: int) -> Any:
    mask, dim = np.uint64((1 << bits) - 1), columns * width

    @kernel
    def cce(begin, end, weight, packed, salt, offset, ids, slot, out):
        seen = nothing_seen(end - begin)
        new, old = np.empty(WINDOW, np.int64), np.empty((WINDOW, 2), np.int64)
        words = np.zeros((columns, BLOCK), dtype=np.uint64)
        firsts = np.zeros(BLOCK, dtype=np.int64)
        starts = np.empty((BLOCK * columns, 2), dtype=np.int64)
        rows, features = len(weight) // (2 * dim), min(len(salt), len(offset))
        for first in range(begin, end, WINDOW):
            stop = min(first + WINDOW, end)
            fresh = find_repeats(ids, slot, first, stop, seen, new, old)
            for block in range(0, fresh, BLOCK):
                count = min(BLOCK, fresh - block)
                for i in range(count):
                    number, own = ids[new[block + i]], row_of(slot[new[block + i]], features)
                    for column in range(columns):
                        words[column, i] = np.uint64(number ^ salt[own, column])
                    if bits:
                        firsts[i] = (offset[own] + number) * (columns * bits)
                        row_of((firsts[i] + (columns - 1) * bits) >> 3, len(packed) - 7)
                        prefetch_block(packed, firsts[i] >> 3)
                for column in range(columns):
                    for i in range(count):
                        words[column, i] = mix(words[column, i])
                for i in range(count):
                    for column in range(columns):
                        row = rows * (columns + column) + place_in(words[column, i], rows)
                        starts[i * columns + column, 1] = width * row
                        prefetch_block(weight, width * row)
                for i in range(count):
                    for column in range(columns):
                        row = rows * column
                        if bits:
                            start = firsts[i] + column * bits
                            word = load_word(packed, start >> 3) >> np.uint64(start & 7)
                            row += np.int64(row_of(np.int64(word & mask), rows))
                        starts[i * columns + column, 0] = width * row
                        prefetch_block(weight, width * row)
                for i in range(count):
                    for column in range(columns):
                        place = new[block + i] * dim + column * width
                        sum_rows(weight, starts, i * columns + column, 2, width, out, place)
            copy_repeats(old, stop - first - fresh, dim, out)

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
