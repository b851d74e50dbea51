"""Pooled rows of narrow features, each brought to the output's width by a projection of its feature."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import in_parts, kernel
from slimtab.kernels.rows import add_scaled, copy_row, copy_scaled


@functools.cache
def _loop(dim: int) -> Any:
    @kernel
    def project(begin, end, pooled, features, width, first, widths, rows, out):
        for i in range(begin * features, end * features):
            feature = i % features
            if first[feature] < 0:
                copy_row(pooled, i * width, dim, out, i * dim)
                continue
            start = first[feature] * dim
            copy_scaled(rows, start, pooled[i * width], np.float32(0), dim, out, i * dim)
            for column in range(1, widths[feature]):
                add_scaled(rows, start + column * dim, pooled[i * width + column], dim, out, i * dim)

    return project


def project(pooled: Tensor, first: Tensor, widths: Tensor, rows: Tensor) -> Tensor:
    """Return [B, F, dim].

    Args:
        pooled: [B, F, W] float32.
        first: of ``rows``, where each feature's projection begins, −1 for one that has none [F] int64.
        widths: rows of each projection [F] int64.
        rows: those of all projections [R, dim] float32.
    """
    batch, features, width = pooled.shape
    dim = rows.shape[1]
    out = pooled.new_empty(batch, features, dim)
    flat = pooled.view(-1), features, width, first, widths, rows.view(-1)
    in_parts(_loop(dim), batch, *flat, out.view(-1))
    return out
