"""Hot ids found in the index that a sketch left, hashed rows for the others."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.hashing import mix, place_in
from slimtab.kernels.intrinsics import prefetch_block
from slimtab.kernels.rows import copy_row


@functools.cache
def _loop(cells: int, dim: int) -> Any:
    @kernel
    def cafe(begin, end, weight, hashed, ids, slot, offset, index, starts, salt, first_hot, out):
        words, rows = np.zeros(BLOCK, dtype=np.uint64), np.empty(BLOCK, dtype=np.int64)
        keys = np.empty(BLOCK, dtype=np.int64)
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            for i in range(count):
                keys[i] = ids[first + i] + offset[row_of(slot[first + i], len(offset))]
                words[i] = np.uint64(keys[i] ^ salt)
            for i in range(BLOCK):
                words[i] = np.uint64(place_in(mix(words[i]), len(starts)))
            for i in range(count):
                prefetch_block(starts, np.int64(words[i]))
            for i in range(count):
                rows[i] = starts[words[i]]
                row_of(rows[i], len(index) - cells + 1)
                prefetch_block(index, rows[i])
            for i in range(count):
                # A key stands in one place only; the cells may reach into the next buckets.
                row, start = hashed[first + i], np.uint64(rows[i])
                for cell in range(cells):
                    hot = first_hot + rows[i] + cell
                    row = hot if index[start + np.uint64(cell)] == keys[i] else row
                rows[i] = np.int64(row_of(row, len(weight) // dim)) * dim
                prefetch_block(weight, rows[i])
            for i in range(count):
                copy_row(weight, rows[i], dim, out, (first + i) * dim)

    return cafe


def read_cafe(
    weight: Tensor,
    hashed: Tensor,
    ids: Tensor,
    slot: Tensor,
    offset: Tensor,
    index: Tensor,
    starts: Tensor,
    salt: Tensor,
    cells: int,
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        weight: hashed rows, then one for each bucket [R, dim] float32.
        hashed: the row of each id should it not be hot [N] int64.
        ids: [N] int64.
        slot: [N] int64.
        offset: what makes a key of an id of each feature [F] int64.
        index: keys of hot ids, bucket after bucket, ``cells`` more behind, int32 or int64.
        starts: where each bucket begins [B] int32.
        salt: of buckets [1] int64.
        cells: keys that a bucket has at most.
    """
    dim = weight.shape[1]
    out = weight.new_empty(len(ids), dim)
    tables, first_hot = (index, starts, int(salt)), len(weight) - len(starts)
    arrays = weight.view(-1), hashed, ids, slot, offset, *tables, first_hot
    in_parts(_loop(cells, dim), len(ids), *arrays, out.view(-1))
    return out
