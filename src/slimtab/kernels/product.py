"""Product codes: a packed code for each part of a vector, and the piece it names."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.intrinsics import load_word, prefetch_block
from slimtab.kernels.rows import copy_row


@functools.cache
def _loop(parts: int, width: int, hot_bits: int, cold_bits: int) -> Any:
    eights = -(-parts // 8)  # eight codes fill whole bytes, and one word at most

    @kernel
    def product(begin, end, packed, pieces, full, own, hot, hot_first, cold_first, ids, slot, out):
        firsts, bits = np.empty(BLOCK, dtype=np.int64), np.empty(BLOCK, dtype=np.int64)
        each = len(pieces) // width // parts
        filled = each >= 1 << max(hot_bits, cold_bits)  # there is a piece for whatever bits say
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            for i in range(count):
                feature, name = row_of(slot[first + i], len(full)), ids[first + i]
                if full[feature]:
                    bits[i], firsts[i] = 0, own[feature] + name
                    row_of(firsts[i], each)
                    continue
                if name < hot[feature]:
                    wide, start = hot_bits, hot_first[feature] + name * (parts * hot_bits)
                else:
                    wide, start = cold_bits, cold_first[feature] + name * (parts * cold_bits)
                bits[i], firsts[i] = wide, start if wide else 0
                if wide:
                    row_of((start + 8 * wide * (eights - 1)) >> 3, len(packed) - 7)
                    prefetch_block(packed, start >> 3)
            for i in range(count):
                place = (first + i) * parts * width
                mask = (np.uint64(1) << np.uint64(bits[i])) - np.uint64(1)
                if bits[i] == 0:
                    for part in range(parts):
                        copy_row(pieces, (part * each + firsts[i]) * width, width, out, place + part * width)
                    continue
                for eight in range(eights):
                    start = firsts[i] + eight * 8 * bits[i]
                    word = load_word(packed, start >> 3) >> np.uint64(start & 7)
                    for part in range(8 * eight, min(parts, 8 * eight + 8)):
                        piece = np.int64(word & mask)
                        if not filled:
                            row_of(piece, each)
                        copy_row(pieces, (part * each + piece) * width, width, out, place + part * width)
                        word >>= np.uint64(bits[i])

    return product


def read_product(
    packed: Tensor,
    pieces: Tensor,
    full: Tensor,
    own: Tensor,
    hot: Tensor,
    first: tuple[Tensor, Tensor],
    bits: tuple[int, int],
    parts: int,
    ids: Tensor,
    slot: Tensor,
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        packed: codes, uint8.
        pieces: [parts · S, w] float32.
        full: nonzero for features that have rows and no codes [F] int64.
        own: the piece at which those begin [F] int64.
        hot: ids of each feature that have hot codes [F] int64.
        first: the bit at which id 0 would have its hot and its cold codes [F] int64.
        bits: of a hot and of a cold code, at most 8; 0 where there are none.
        parts: of a vector.
        ids: [N] int64.
        slot: [N] int64.
    """
    width = pieces.shape[1]
    out = pieces.new_empty(len(ids), parts * width)
    # A piece of two floats is one number of 64 bits.
    number, width = (torch.uint64, width // 2) if width % 4 == 2 else (torch.uint32, width)
    in_parts(
        _loop(parts, width, *bits), len(ids), packed, pieces.view(-1).view(number), full, own, hot, *first,
        ids, slot, out.view(-1).view(number),
    )  # fmt: skip
    return out
