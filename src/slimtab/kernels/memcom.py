"""MEmCom: rows shared by hash, scaled and shifted by what each id has of its own."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.hashing import mix_block, place_in
from slimtab.kernels.intrinsics import prefetch_block
from slimtab.kernels.rows import copy_scaled


@functools.cache
def _loop(dim: int, bias: bool) -> Any:
    each = 2 if bias else 1

    @kernel
    def memcom(begin, end, shared, own, salt, offset, ids, slot, out):
        words = np.zeros((1, BLOCK), dtype=np.uint64)
        starts, owners = np.empty(BLOCK, dtype=np.int64), np.empty(BLOCK, dtype=np.int64)
        rows = len(shared) // dim
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            mix_block(ids, slot, salt, first, count, 1, words)
            for i in range(count):
                starts[i] = dim * place_in(words[0, i], rows)
                owners[i] = each * (offset[row_of(slot[first + i], len(salt))] + ids[first + i])
                row_of(owners[i], len(own))
                prefetch_block(shared, starts[i])
                prefetch_block(own, owners[i])
            for i in range(count):
                place = (first + i) * dim
                shift = own[owners[i] + 1] if bias else np.float32(0)
                copy_scaled(shared, starts[i], own[owners[i]], shift, dim, out, place)

    return memcom


def read_memcom(
    shared: Tensor, own: Tensor, salt: Tensor, offset: Tensor, ids: Tensor, slot: Tensor
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        shared: rows [R, dim] float32.
        own: factor of each id, and its bias where there is one [Σ num_ids, 1 or 2] float32.
        salt: [F, 1] int64.
        offset: where each feature's ids begin [F] int64.
        ids: [N] int64.
        slot: [N] int64.
    """
    dim = shared.shape[1]
    out = shared.new_empty(len(ids), dim)
    loop = _loop(dim, own.shape[1] == 2)
    in_parts(loop, len(ids), shared.view(-1), own.view(-1), salt, offset, ids, slot, out.view(-1))
    return out
