"""Rows of integers, turned into floats as they are read."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import in_parts, kernel, row_of
from slimtab.kernels.intrinsics import half_at, prefetch
from slimtab.kernels.vectors import copy4_integers

_AHEAD = 16  # rows under way at a time


@functools.cache
def _loop(dim: int, steps: bool) -> Any:
    """Return a loop for a step of each row in half precision, or for one step of all in single."""

    @kernel
    def integers(begin, end, numbers, step, offset, ids, slot, out):
        rows = len(numbers) // dim
        for i in range(begin, end):
            if i + _AHEAD < end:
                ahead = offset[row_of(slot[i + _AHEAD], len(offset))] + ids[i + _AHEAD]
                prefetch(numbers, ahead * dim)
                if steps:
                    prefetch(step, ahead)
            row = offset[row_of(slot[i], len(offset))] + ids[i]
            row_of(row, rows)
            factor = half_at(step, row) if steps else step[0]
            if dim % 4 == 0:
                for column in range(0, dim, 4):
                    copy4_integers(out, i * dim + column, numbers, row * dim + column, factor)
            else:
                for column in range(dim):
                    out[i * dim + column] = np.float32(numbers[row * dim + column]) * factor

    return integers


def read_integers(numbers: Tensor, step: Tensor, offset: Tensor, ids: Tensor, slot: Tensor) -> Tensor:
    """Return vectors [N, dim].

    Args:
        numbers: [Σ num_ids, dim] int8 or int16.
        step: float32 scalar, or float16 for each row [Σ num_ids].
        offset: where each feature's ids begin [F] int64.
        ids: [N] int64.
        slot: [N] int64.
    """
    dim, steps = numbers.shape[1], step.dim() > 0
    out = torch.empty(len(ids), dim, dtype=torch.float32)
    factors = step.view(torch.int16) if steps else step.view(1)
    in_parts(_loop(dim, steps), len(ids), numbers.view(-1), factors, offset, ids, slot, out.view(-1))
    return out
