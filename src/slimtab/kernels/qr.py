"""Quotient and remainder: the rows that the digits of an id name, combined."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.division import divide
from slimtab.kernels.intrinsics import prefetch_block
from slimtab.kernels.rows import copy_row, multiply_row, sum_rows


@functools.cache
def _loop(mode: str, parts: int, width: int) -> Any:
    concat, multiply = mode == "concat", mode == "mult"
    dim = width * (parts if concat else 1)

    @kernel
    def qr(begin, end, weight, turn, stride, radix, inverses, offset, ids, slot, out):
        starts = np.empty((BLOCK, parts), dtype=np.int64)
        rows = len(weight) // width
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            for i in range(count):
                own, number = row_of(slot[first + i], len(turn)), ids[first + i]
                _, forth = divide(number, turn[own], inverses[0, own])
                row = offset[0, own] + min(forth, turn[own] - 1 - forth)
                starts[i, 0] = np.int64(row_of(row, rows)) * width
                for part in range(1, parts):
                    digit, _ = divide(number, stride[part, own], inverses[2 * part, own])
                    if part + 1 < parts:  # the last digit is what is left
                        _, digit = divide(digit, radix[part, own], inverses[2 * part + 1, own])
                    row = offset[part, own] + digit
                    starts[i, part] = np.int64(row_of(row, rows)) * width
                for part in range(parts):
                    prefetch_block(weight, starts[i, part])
            for i in range(count):
                place = (first + i) * dim
                if concat:
                    for part in range(parts):
                        copy_row(weight, starts[i, part], width, out, place + part * width)
                elif multiply:
                    copy_row(weight, starts[i, 0], width, out, place)
                    for part in range(1, parts):
                        multiply_row(weight, starts[i, part], width, out, place)
                else:
                    sum_rows(weight, starts, i, parts, width, out, place)

    return qr


def read_qr(
    weight: Tensor,
    turn: Tensor,
    stride: Tensor,
    radix: Tensor,
    offset: Tensor,
    mode: str,
    parts: int,
    ids: Tensor,
    slot: Tensor,
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        weight: [R, w] float32.
        turn: twice the rows of the first partition [F] int64.
        stride: what an id is divided by for each digit [k, F] int64.
        radix: of each digit [k, F] int64.
        offset: where the rows of each partition begin [k, F] int64.
        mode: ``mult``, ``add`` or ``concat``.
        parts: partitions that are read.
        ids: [N] int64, not negative.
        slot: [N] int64.
    """
    width = weight.shape[1]
    out = weight.new_empty(len(ids), width * (parts if mode == "concat" else 1))
    inverses = 1 / torch.stack([stride, radix], dim=1).flatten(0, 1).double()
    inverses[0] = 1 / turn.double()
    tables = turn, stride, radix, inverses, offset
    in_parts(_loop(mode, parts, width), len(ids), weight.view(-1), *tables, ids, slot, out.view(-1))
    return out
