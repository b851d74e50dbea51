"""Blocks of rows that ids share, read through their packed index."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.intrinsics import load_word, prefetch_block
from slimtab.kernels.rows import copy_row


@functools.cache
def _loop(block: int, bits: int, dim: int) -> Any:
    mask = np.uint64((1 << bits) - 1)

    @kernel
    def dedup(begin, end, index, weight, start, ids, slot, out):
        firsts, rows = np.empty(BLOCK, dtype=np.int64), np.empty(BLOCK, dtype=np.int64)
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            for i in range(count):
                number = start[row_of(slot[first + i], len(start))] + ids[first + i] // block
                firsts[i] = number * bits
                if bits:
                    row_of(firsts[i] >> 3, len(index) - 7)
                    prefetch_block(index, firsts[i] >> 3)
            for i in range(count):
                row = ids[first + i] % block
                if bits:
                    word = load_word(index, firsts[i] >> 3) >> np.uint64(firsts[i] & 7)
                    row += np.int64(word & mask) * block
                rows[i] = np.int64(row_of(row, len(weight) // dim)) * dim
                prefetch_block(weight, rows[i])
            for i in range(count):
                copy_row(weight, rows[i], dim, out, (first + i) * dim)

    return dedup


def read_dedup(
    index: Tensor, weight: Tensor, start: Tensor, block: int, bits: int, ids: Tensor, slot: Tensor
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        index: a code of ``bits`` bits for each block of ids, uint8.
        weight: the blocks that are stored, as rows [blocks · block, dim] float32.
        start: where each feature's blocks begin [F] int64.
        block: rows of a block.
        bits: of a code.
        ids: [N] int64.
        slot: [N] int64.
    """
    dim = weight.shape[1]
    out = weight.new_empty(len(ids), dim)
    in_parts(_loop(block, bits, dim), len(ids), index, weight.view(-1), start, ids, slot, out.view(-1))
    return out
