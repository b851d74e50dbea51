"""Chunks of one array that ids find by hashing, copied side by side: ROBE's and the unified table's."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel
from slimtab.kernels.hashing import high_place, low_place, mix_block
from slimtab.kernels.intrinsics import prefetch_block
from slimtab.kernels.rows import copy_row
from slimtab.kernels.vectors import copy4_signed

_SIGN = np.uint32(0x80000000)


@functools.cache
def _loop(width: int, chunks: int, words: int, stride: int) -> Any:
    located = (chunks + 1) // 2  # words of salt that tell places; further ones tell signs
    signed, step = words > located, 1 if width % 4 else 4
    dim = width * chunks

    @kernel
    def read(begin, end, values, salt, places, ids, slot, out):
        mixed = np.zeros((words, BLOCK), dtype=np.uint64)
        starts = np.empty((BLOCK, 2 * located), dtype=np.int64)
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            mix_block(ids, slot, salt, first, count, words, mixed)
            for i in range(count):
                for number in range(located):
                    starts[i, 2 * number] = low_place(mixed[number, i], places) * stride
                    starts[i, 2 * number + 1] = high_place(mixed[number, i], places) * stride
                for chunk in range(chunks):
                    prefetch_block(values, starts[i, chunk])
            for i in range(count):
                place = (first + i) * dim
                for chunk in range(chunks):
                    if not signed:
                        copy_row(values, starts[i, chunk], width, out, place + chunk * width)
                        continue
                    for column in range(0, width, step):
                        bit, start = chunk * width + column, starts[i, chunk] + column
                        word = mixed[located + (bit >> 6), i]
                        signs = np.uint32(word >> np.uint64(bit & 32)) << np.uint32(bit & 31)
                        if step == 4:
                            copy4_signed(out, place + bit, values, start, signs)
                        else:
                            out[place + bit] = values[start] ^ (signs & _SIGN)

    return read


def read_chunks(
    values: Tensor, salt: Tensor, ids: Tensor, slot: Tensor, width: int, chunks: int, stride: int
) -> Tensor:
    """Return vectors [N, chunks · width] of ``ids`` [N].

    Args:
        values: [M] float32.
        salt: [F, W] int64: of places, two to a word, and then of signs, 64 to a word, where there are any.
        ids: [N] int64.
        slot: [N] int64.
        width: floats of a chunk.
        chunks: of an id.
        stride: floats from a place where a chunk may begin to the next.
    """
    out = values.new_empty(len(ids), chunks * width)
    places, bits = (len(values) - width) // stride + 1, torch.uint32
    loop = _loop(width, chunks, salt.shape[1], stride)
    in_parts(loop, len(ids), values.view(bits), salt, places, ids, slot, out.view(-1).view(bits))
    return out
