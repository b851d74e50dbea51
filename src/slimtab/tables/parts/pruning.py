"""What pruned tables share: a budget of bytes, the exact cut to it, and the mask they end with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.sizing import largest
from slimtab.tables.parts.sparse import FrozenSparse, sparse_bytes
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory

_SAMPLE = 4096  # rows that say how dense the table will be while it is being pruned
_LEFT = 1e-3  # of the way: where the exponential approach to the final rate counts as there
_SWEEPS = 20  # per epoch …
_PAUSE = 10  # … but no more often than every so many steps
_MOST = 2**31 - 2  # elements: they are counted in int32


@dataclass(frozen=True)
class PrunedConfig(TableConfig):
    """Settings of :class:`PrunedTable`.

    Attributes:
        nbytes: serving bytes it may take.
        rows: that keep something once the mask is chosen; 0 before.
        elements: that are kept then.
        ramp: epochs until as much is pruned as the bytes demand.
    """

    by_budget: ClassVar[tuple[str, ...]] = ("nbytes", "rows", "elements")

    nbytes: int = 0
    rows: int = 0
    elements: int = 0
    ramp: float = 1.0

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return a single element, and 1.5 bits for each id to say that there is nothing else."""
        return sparse_bytes(sum(feature.num_ids for feature in features), dim, 1, 1)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> PrunedConfig:
        return cls(**{**options, "nbytes": nbytes})

    def fill(self, num_rows: int, dim: int) -> PrunedConfig:
        """Return the config with whole rows chosen, as many as go in, the last one in part."""

        def fits(elements: int) -> bool:
            return sparse_bytes(num_rows, dim, -(-elements // dim), elements) <= self.nbytes

        elements = largest(fits, 1, min(num_rows * dim, _MOST))
        return dataclasses.replace(self, rows=-(-elements // dim), elements=elements)


def cut(scores: Tensor, nbytes: int) -> Tensor:
    """Return the mask [n, dim] bool of the elements of highest score that fit into ``nbytes`` when sparse.

    An element costs a float, and the first of its row the row's bits. Among equals the first ones go in.

    Args:
        scores: [n, dim] float32.
        nbytes: at least the bytes of a single element.
    """
    num_rows, dim = scores.shape
    keys = scores.contiguous().view(torch.int32)
    keys = keys ^ ((keys >> 31) & 0x7FFFFFFF)  # whole numbers in the order of the floats

    def fits(minus: int) -> bool:
        above = keys > -minus
        rows, elements = int(above.any(dim=1).sum()), int(above.sum())
        return elements <= _MOST and sparse_bytes(num_rows, dim, rows, elements) <= nbytes

    limit = -largest(fits, -(2**31) + 1, 2**31)
    mask = keys > limit
    equal = (keys == limit).flatten().nonzero().squeeze(1)
    row = equal // dim
    opens = ~mask.any(dim=1)[row]
    opens[1:] &= row[1:] != row[:-1]
    rows, elements = mask.any(dim=1).sum(), int(mask.sum())
    opened, count = (torch.cumsum(opens, 0) + rows), len(equal)

    def go_in(more: int) -> bool:
        filled = int(opened[more - 1] if more else rows)
        total = elements + more
        return total <= _MOST and sparse_bytes(num_rows, dim, filled, total) <= nbytes

    mask.view(-1)[equal[: largest(go_in, 0, count)]] = True
    return mask


class PrunedTable(EmbeddingTable):
    """A full table that loses elements as it trains, and ends under a mask as sparse as its bytes demand.

    The last stage trains what the mask keeps. Before it, in the stage ``pruning``, eval shows what a cut to
    the final bytes would leave at this moment: so validation chooses among weights as they would be served.
    """

    kind = "pruned"
    Config = PrunedConfig
    config: PrunedConfig
    offset: Tensor
    mask: Tensor | None
    limit: Tensor
    pruning: ClassVar[str]  # the stage in which elements go

    def __init__(
        self,
        config: PrunedConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        sizes = [feature.num_ids for feature in features]
        self.rows = make_rows(sum(sizes), dim, init_std)
        self.register_buffer("offset", starts(sizes), persistent=False)
        self.register_buffer("mask", None)
        # Score of the last element that a cut keeps; made anew for each evaluation.
        self.register_buffer("limit", torch.tensor(-torch.inf), persistent=False)

    def values(self) -> Tensor:
        """Return a copy of all rows [n, dim] as the network sees them where nothing is cut."""
        return self.rows.values()

    def scores(self, values: Tensor, slot: Tensor) -> Tensor:
        """Return in which order elements are kept [N, dim], for rows ``values`` [N, dim] of features."""
        raise NotImplementedError

    def cut_off(self, values: Tensor, slot: Tensor, limit: Tensor) -> Tensor:
        """Return ``values`` [N, dim] as the network sees them while all with scores below ``limit`` go."""
        raise NotImplementedError

    def prune(self, limit: Tensor) -> None:
        """Take the elements whose scores are below ``limit`` [] from the table."""
        raise NotImplementedError

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        address = ids + self.offset.index_select(0, slot)
        rows: Tensor = self.rows(address)
        if self.mask is not None:
            return rows * F.embedding(address, self.mask)
        if self.stage == self.pruning and not self.training:
            return self.cut_off(rows, slot, self.limit)
        return rows

    def on_step(self, clock: Clock) -> None:
        """Prune a little more, every so many steps."""
        every = max(_PAUSE, clock.steps_per_epoch // _SWEEPS)
        if self.stage != self.pruning or clock.step % every:
            return
        done = min(1.0, clock.step / (self.config.ramp * clock.steps_per_epoch))
        share = (1 - _LEFT**done) / (1 - _LEFT)
        with torch.no_grad():
            # Every so many rows: ids are numbered by frequency, so that is a fair sample of each feature.
            some = torch.arange(0, self.rows.num_rows, -(-self.rows.num_rows // _SAMPLE)).to(
                self.offset.device
            )
            scores = self.scores(self.rows(some), self._slots()[some])
            kept = cut(scores, self.config.nbytes * len(some) // self.rows.num_rows).sum()
            gone = int(share * (scores.numel() - int(kept)))
            if gone:
                self.prune(scores.flatten().kthvalue(gone).values)

    def train(self, mode: bool = True) -> PrunedTable:
        """See the class: before an evaluation the cut is made anew."""
        super().train(mode)
        if not mode and self.stage == self.pruning and not self.offset.is_meta:
            scores = self._all_scores()
            self.limit = scores[cut(scores, self.config.nbytes)].min()
        return self

    @torch.no_grad()
    def choose(self, stage: str) -> None:
        """Cut the trained table, to the byte, before the last stage."""
        if stage != self.stages[-1]:
            return
        if self.offset.is_meta:
            self.config = self.config.fill(self.rows.num_rows, self.dim)
            return
        mask = cut(self._all_scores(), self.config.nbytes)
        rows, elements = int(mask.any(dim=1).sum()), int(mask.sum())
        self.config, self.mask = dataclasses.replace(self.config, rows=rows, elements=elements), mask

    def set_stage(self, stage: str) -> None:
        """Enter a stage; the last one has a mask."""
        if stage == self.stages[-1] and not self.config.rows:
            self.choose(stage)
        if stage == self.stages[-1] and self.mask is None:
            self.mask = self._any_mask()
        super().set_stage(stage)

    @torch.no_grad()
    def freeze(self) -> FrozenTable:
        """Return what the mask keeps; before there is one, what a cut would keep now."""
        values, config, mask = self.values(), self.config, self.mask
        if mask is None:
            scores = self.scores(values, self._slots())
            mask = cut(scores, config.nbytes)
            values = self.cut_off(values, self._slots(), scores[mask].min())
            config = dataclasses.replace(config, rows=int(mask.any(dim=1).sum()), elements=int(mask.sum()))
        return FrozenSparse(values, mask, config.rows, config.elements, self.offset)

    def stats(self) -> dict[str, float]:
        """Return the shares of rows and of elements that are kept, once that is decided."""
        rows = self.rows.num_rows
        if not self.config.rows:
            return {}
        return {
            "rows_kept": self.config.rows / rows,
            "elements_kept": self.config.elements / (rows * self.dim),
        }

    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return the shares of each feature's rows and elements that are kept, once that is decided."""
        if self.mask is None:
            return {}
        masks = torch.split(self.mask, [feature.num_ids for feature in self.features])
        return {
            "rows_kept": self.named(float(mask.any(dim=1).float().mean()) for mask in masks),
            "elements_kept": self.named(float(mask.float().mean()) for mask in masks),
        }

    def _slots(self) -> Tensor:
        """Return the feature of each row [n]."""
        rows = torch.arange(self.rows.num_rows, device=self.offset.device)
        return torch.bucketize(rows, self.offset, right=True) - 1

    @torch.no_grad()
    def _all_scores(self) -> Tensor:
        return self.scores(self.values(), self._slots())

    def _any_mask(self) -> Tensor:
        """Return a mask with as many rows and elements as the config says, for another to be loaded over."""
        rows, dim = self.config.rows, self.dim
        mask = self.offset.new_zeros(self.rows.num_rows, dim, dtype=torch.bool)
        mask[:rows, 0] = True
        rest = torch.arange(rows * (dim - 1), device=mask.device) < self.config.elements - rows
        mask[:rows, 1:] = rest.view(rows, dim - 1)
        return mask
