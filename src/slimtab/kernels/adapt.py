"""Rows of their own for frequent ids, shared ones dealt out in turn to the others."""

from __future__ import annotations

import torch
from torch import Tensor

from slimtab.kernels.compiling import in_parts, kernel, row_of
from slimtab.kernels.division import divide


@kernel
def _adapt(begin, end, hot, start, shift, own_rows, rare, ids, slot, out):
    inverse = 1.0 / rare
    for i in range(begin, end):
        own = row_of(slot[i], len(hot))
        if ids[i] < hot[own]:
            out[i] = start[own] + ids[i]
        else:
            out[i] = own_rows + divide(ids[i] + shift[own], rare, inverse)[1]


def adapt_rows(hot: Tensor, offset: Tensor, own_rows: int, rare: int, ids: Tensor, slot: Tensor) -> Tensor:
    """Return row numbers [N] int64.

    Args:
        hot: of each feature's ids, how many own rows [F] int64.
        offset: where each feature's ids begin [F] int64.
        own_rows: rows that are owned, and stand before the shared ones.
        rare: rows that are shared.
        ids: [N] int64.
        slot: [N] int64.
    """
    out = torch.empty_like(ids)
    start = hot.cumsum(0) - hot
    in_parts(_adapt, len(ids), hot, start, offset - start - hot, own_rows, rare, ids, slot, out)
    return out
