"""Few bits for each coordinate, turned into floats by their row's least value and step."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import in_parts, kernel, row_of
from slimtab.kernels.intrinsics import half_at, multiply_add, prefetch
from slimtab.kernels.vectors import copy4_of2, copy4_of4, copy4_of8

_AHEAD = 16  # rows under way at a time


@functools.cache
def _loop(dim: int, bits: int, in_row: int) -> Any:
    mask = (1 << bits) - 1

    @kernel
    def row_steps(begin, end, codes, lines, offset, ids, slot, out):
        rows = len(codes) // in_row
        for i in range(begin, end):
            if i + _AHEAD < end:
                ahead = offset[row_of(slot[i + _AHEAD], len(offset))] + ids[i + _AHEAD]
                prefetch(codes, ahead * in_row)
                prefetch(lines, 2 * ahead)
            row = offset[row_of(slot[i], len(offset))] + ids[i]
            row_of(row, rows)
            least, step = half_at(lines, 2 * row), half_at(lines, 2 * row + 1)
            for column in range(0, dim // 4 * 4, 4):
                place, start = i * dim + column, row * in_row + column * bits // 8
                if bits == 8:
                    copy4_of8(out, place, codes, start, step, least)
                elif bits == 4:
                    copy4_of4(out, place, codes, start, step, least)
                else:
                    copy4_of2(out, place, codes, start, step, least)
            for column in range(dim // 4 * 4, dim):
                byte = codes[np.uint64(row * in_row + column * bits // 8)]
                code = (byte >> np.uint8(column * bits % 8)) & np.uint8(mask)
                out[i * dim + column] = multiply_add(np.float32(code), step, least)

    return row_steps


def read_row_steps(
    codes: Tensor, lines: Tensor, offset: Tensor, bits: int, dim: int, ids: Tensor, slot: Tensor
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        codes: [Σ num_ids, bytes] uint8, coordinates from the lowest bits on.
        lines: least value and step of each row [Σ num_ids, 2] float16.
        offset: where each feature's rows begin [F] int64.
        bits: of a coordinate: 2, 4 or 8.
        dim: coordinates.
        ids: [N] int64.
        slot: [N] int64.
    """
    out = torch.empty(len(ids), dim, dtype=torch.float32)
    loop, halves = _loop(dim, bits, codes.shape[1]), lines.view(-1).view(torch.int16)
    in_parts(loop, len(ids), codes.view(-1), halves, offset, ids, slot, out.view(-1))
    return out
