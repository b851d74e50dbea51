"""Work on each distinct number once: find them, and spread their vectors back over the places they stand.

Ids are skewed, so a batch holds few distinct ones. The sort that finds them also lays the places of each one
side by side, which turns the backward pass (adding up the gradients of all places) into a sum over contiguous
segments: fifteen times faster on CPU than what autograd does for a gather.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.tables.hashing import mix64
from slimtab.tables.parts.reading import read_rows


class Distinct(NamedTuple):
    """The distinct numbers among N.

    Attributes:
        values: the U distinct numbers, ascending [U].
        inverse: for each of the N, which distinct one it is [N].
        order: the N places, sorted by number [N]; equal ones keep their order.
        starts: where each distinct number's places begin in ``order`` [U].
    """

    values: Tensor
    inverse: Tensor
    order: Tensor
    starts: Tensor

    @property
    def places(self) -> Tensor:
        """The first place of each distinct number [U]."""
        return self.order[self.starts]

    def expand(self, vectors: Tensor) -> Tensor:
        """Return [N, w] from the distinct numbers' ``vectors`` [U, w]; gradients flow back, added up."""
        expanded: Tensor = _Expand.apply(vectors, self)  # type: ignore[no-untyped-call]
        return expanded


def pair_numbers(ids: Tensor, slot: Tensor, offset: Tensor | None) -> Tensor:
    """Return a number for each (feature, id), to tell them apart by.

    Args:
        ids: int64, in any shape.
        slot: which feature each id is of; broadcasts against ``ids``.
        offset: where the ids of each feature begin among all [F]; None where ids are hashes.
    """
    return mix64(ids ^ mix64(slot)) if offset is None else ids + offset[slot]


def distinct(numbers: Tensor) -> Distinct:
    """Find the distinct ones among ``numbers`` [N] int64."""
    ascending, order = torch.sort(numbers, stable=True)
    first = torch.ones_like(ascending, dtype=torch.bool)
    torch.ne(ascending[1:], ascending[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)
    inverse = torch.empty_like(order).scatter_(0, order, torch.cumsum(first, 0) - 1)
    return Distinct(ascending[starts], inverse, order, starts)


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, which: Distinct) -> Tensor:
        ctx.which = which
        return read_rows(vectors, which.inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        if gradient.is_cuda:  # where one thread would add up the places of an id that a batch is full of
            whole = gradient.new_zeros(len(ctx.which.values), gradient.shape[1])
            return whole.index_add_(0, ctx.which.inverse, gradient), None
        return F.embedding_bag(ctx.which.order, gradient, ctx.which.starts, mode="sum"), None
