"""Multiply many vectors by few matrices, each vector by its own: a batched product over blocks of rows.

A matrix per vector would be copied for each. Here vectors that use the same matrix stand together in blocks
of a fixed number of rows, so that a matrix is copied once for each block. All shapes follow from the
number of vectors, which lets a frozen table be exported.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Blocks(NamedTuple):
    """Where N items stand in B blocks of T rows.

    Attributes:
        place: row of each item [N], in 0 … B·T − 1.
        matrix: the matrix that each block uses [B]; any for blocks that stay empty.
        size: T.
    """

    place: Tensor
    matrix: Tensor
    size: int

    def spread(self, numbers: Tensor) -> Tensor:
        """Return [B, T] with ``numbers`` [N] int64 at their places, and 0 where nobody stands."""
        empty = numbers.new_zeros(self.matrix.shape[0] * self.size)
        return empty.scatter(0, self.place, numbers).view(-1, self.size)


def make_blocks(ascending: Tensor, matrices: int, size: int, exact: bool) -> Blocks:
    """Lay out items whose matrix numbers are ``ascending`` [N] int64, each below ``matrices``.

    Args:
        ascending: sorted.
        matrices: how many there are.
        size: rows of a block.
        exact: make no block more than needed, which takes a look at the numbers; otherwise as many as
            N items could need.
    """
    edges = torch.searchsorted(ascending, torch.arange(matrices + 1, device=ascending.device))
    start, count = edges[:-1], edges.diff()
    upto = ((count + size - 1) // size).cumsum(0)
    first = upto - (count + size - 1) // size
    items = ascending.shape[0]
    within = torch.arange(items, device=ascending.device) - start[ascending]
    place = first[ascending] * size + within
    most = items // size + torch.sym_min(items, matrices)  # type: ignore[no-untyped-call]
    blocks = int(upto[-1]) if exact else most
    matrix = torch.searchsorted(upto, torch.arange(blocks, device=ascending.device), right=True)
    return Blocks(place, matrix.clamp(max=matrices - 1), size)
