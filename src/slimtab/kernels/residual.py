"""Residual codes: the codewords of a few levels, added up."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.intrinsics import load_word, prefetch_block
from slimtab.kernels.rows import sum_rows


@functools.cache
def _loop(dim: int) -> Any:
    @kernel
    def residual(begin, end, packed, codewords, first, wide, levels, shift, mask, start, ids, slot, out):
        firsts = np.empty(BLOCK, dtype=np.int64)
        starts = np.empty((1, start.shape[1]), dtype=np.int64)
        for own in range(len(levels)):  # whatever the bits say is a codeword
            for level in range(levels[own]):
                row_of(start[own, level] + mask[own, level], len(codewords) // dim)
        for block in range(begin, end, BLOCK):
            count = min(BLOCK, end - block)
            for i in range(count):
                own = row_of(slot[block + i], len(first))
                firsts[i] = first[own] + ids[block + i] * wide[own]
                if wide[own]:
                    row_of(firsts[i] >> 3, len(packed) - 7)
                    prefetch_block(packed, firsts[i] >> 3)
            for i in range(count):
                feature = np.uint64(slot[block + i])
                word = np.uint64(0)
                if wide[feature]:
                    word = load_word(packed, firsts[i] >> 3) >> np.uint64(firsts[i] & 7)
                for level in range(levels[feature]):
                    code = (word >> np.uint64(shift[feature, level])) & np.uint64(mask[feature, level])
                    starts[0, level] = dim * (start[feature, level] + np.int64(code))
                sum_rows(codewords, starts, 0, levels[feature], dim, out, (block + i) * dim)

    return residual


def sum_codewords(
    packed: Tensor,
    codewords: Tensor,
    first: Tensor,
    wide: Tensor,
    levels: Tensor,
    codes: tuple[Tensor, Tensor, Tensor],
    ids: Tensor,
    slot: Tensor,
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        packed: codes, uint8.
        codewords: [M, dim] float16.
        first: the bit at which a feature's codes begin [F] int64.
        wide: bits of all codes of an id [F] int64.
        levels: codes of an id, at least one [F] int64.
        codes: shift and mask of each code, and the codeword that its code 0 names, [F, L] int64 all three.
        ids: [N] int64.
        slot: [N] int64.
    """
    dim = codewords.shape[1]
    out = torch.empty(len(ids), dim, dtype=torch.float32)
    tables = first, wide, levels, *codes
    words = codewords.view(-1).view(torch.int16)
    in_parts(_loop(dim), len(ids), packed, words, *tables, ids, slot, out.view(-1))
    return out
