"""Lookups of a whole batch on every rank, for methods that learn from all ids in it.

DHE normalises over the ids of a batch, CAFE ranks them by their gradients, product codes follow the rows
that use them. Were each rank to look up its own rows alone, their tables would drift apart. So ranks bring
their ids together, each looks up all of them, and goes on with the vectors of its own. On the way back
gradients are averaged: each rank then holds what one process would, divided by the number of ranks, and
adding up parameters' gradients over ranks gives the whole, as it does for all others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from slimtab.tables.base import EmbeddingTable
from slimtab.tables.parts.distinct import distinct, pair_numbers
from slimtab.tables.parts.starts import starts
from slimtab.training.engine.draws import Draws
from slimtab.training.engine.group import gather


class WholeLookups:
    """Makes a table look up the ids of all ranks while it trains; all ranks look up at the same time.

    Args:
        table: to change.
        draws: what a lookup draws at random is drawn alike on all ranks.
    """

    def __init__(self, table: EmbeddingTable, draws: Draws) -> None:
        self._draws = draws
        self._own = torch.empty(0, dtype=torch.int64)  # where this rank's vectors stand among all
        numbered = all(feature.encoding == "vocab" for feature in table.features)
        self._offset = starts(feature.num_ids for feature in table.features) if numbered else None
        table.register_forward_pre_hook(self._bring_together)
        table.register_forward_hook(self._keep_own)

    def _bring_together(
        self, table: EmbeddingTable, args: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        if not _learns(table):
            return None
        if self._offset is not None:
            self._offset = self._offset.to(args[0].device)
        ranks = gather(torch.stack(args, dim=1))
        ids, slot = torch.cat(ranks).unbind(dim=1)
        # In the order of one process, which numbers what it looks up in this way.
        each = distinct(pair_numbers(ids, slot, self._offset))
        before = sum(len(part) for part in ranks[: dist.get_rank()])
        self._own = each.inverse[before : before + len(args[0])]
        self._draws.swap()
        return ids[each.places], slot[each.places]

    def _keep_own(self, table: EmbeddingTable, _: Any, vectors: Tensor) -> Tensor | None:
        if not _learns(table):
            return None
        self._draws.swap()
        own: Tensor = _Own.apply(vectors, self._own)  # type: ignore[no-untyped-call]
        return own


def _learns(table: EmbeddingTable) -> bool:
    return table.training and torch.is_grad_enabled()


class _Own(torch.autograd.Function):
    """Takes a rank's own among the vectors of all, and averages gradients over ranks on the way back."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, own: Tensor) -> Tensor:
        ctx.save_for_backward(own)
        ctx.shape = vectors.shape
        return vectors.index_select(0, own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (own,) = ctx.saved_tensors
        whole = gradients[0].new_zeros(ctx.shape).index_add_(0, own, gradients[0])
        dist.all_reduce(whole)
        return whole.div_(dist.get_world_size()), None
