"""Dedup: rows in blocks, and blocks that are alike stored once.

Block-level deduplication of trained tables: Zhou et al., "Serving deep learning models with deduplication
from relational databases", VLDB 2022, as in Zhang et al., "Experimental analysis of large-scale learnable
vector storage compression", VLDB 2024.

The first stage trains a full table. The second shares blocks of it, and goes on training carefully. The
papers hash blocks of thousands of numbers and merge two when a share of them differs by less than a
tolerance, until enough are merged or none are left to merge, so no budget can be promised, and mostly rows
that nothing trained are merged. Here blocks are small, the cheapest merges are made until just as many are
left as the budget holds, a merge is paid for by how often its rows are read, and what is shared is the mean
and not one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimtab import kernels
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.merging import merge_blocks
from slimtab.tables.parts.packing import code_bits, pack, packed_bytes, unpack
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.sizing import largest
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory

# Of a row's squared gradients, to weigh it by: less than 1, for a row seldom read is somebody's only one.
_POWER = 0.75


@dataclass(frozen=True)
class DedupConfig(TableConfig):
    """Settings of :class:`Dedup`.

    Attributes:
        blocks: blocks that are stored.
        block: rows of a block, for ids of one feature that follow one another.
    """

    by_budget = ("blocks",)

    blocks: int = 0
    block: int = 2

    def __post_init__(self) -> None:
        if self.block < 1:
            raise SlimtabError(f"dedup cannot make blocks of {self.block} rows; set block to 1 or more")

    def serve_bytes(self, features: Sequence[Feature], dim: int) -> int:
        """Return bytes of the blocks, and of the index that finds them."""
        index = packed_bytes(sum(self.blocks_of(features)), 1, code_bits(self.blocks))
        return 4 * dim * self.block * self.blocks + index

    def blocks_of(self, features: Sequence[Feature]) -> list[int]:
        """Return the number of blocks that each feature's ids fill, the last one perhaps in part."""
        return [-(-feature.num_ids // self.block) for feature in features]

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one block for all; its index takes no bits."""
        return cls(1, **options).serve_bytes(features, dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> DedupConfig:
        def fits(blocks: int) -> bool:
            return cls(blocks, **options).serve_bytes(features, dim) <= nbytes

        return cls(largest(fits, 1, sum(cls(**options).blocks_of(features))), **options)


class FrozenDedup(FrozenTable):
    """Stored blocks, as rows, and the packed index from blocks of ids to them."""

    index: Tensor
    weight: Tensor
    start: Tensor

    def __init__(self, index: Tensor, weight: Tensor, start: Tensor, block: int) -> None:
        super().__init__()
        self.block, self.bits = block, code_bits(len(weight) // block)
        self.register_buffer("index", index)
        self.register_buffer("weight", weight)
        self.register_buffer("start", start, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.weight, ids, slot):
            from slimtab.kernels.dedup import read_dedup

            return read_dedup(self.index, self.weight, self.start, self.block, self.bits, ids, slot)
        number = ids // self.block
        stored = unpack(self.index, number + self.start.index_select(0, slot), 1, self.bits).squeeze(1)
        return read_rows(self.weight, (stored - number) * self.block + ids)


class Dedup(EmbeddingTable, method="dedup"):
    """A full table while training, then one whose blocks are shared."""

    kind = "dynamic sharing"
    paper = "Zhou et al., VLDB 2022; Zhang et al., VLDB 2024"
    stages = ("train", "share")
    by_frequency = True
    begins_full = True
    Config = DedupConfig
    config: DedupConfig
    offset: Tensor
    start: Tensor
    counts: Tensor
    index: Tensor | None

    def __init__(
        self,
        config: DedupConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        sizes, blocks = [feature.num_ids for feature in features], config.blocks_of(features)
        self.register_buffer("offset", starts(sizes), persistent=False)
        self.register_buffer("start", starts(blocks), persistent=False)
        self.register_buffer("counts", torch.ones(sum(sizes)), persistent=False)
        self.register_buffer("index", None)
        self.make_rows = make_rows
        self.rows = make_rows(sum(sizes), dim, init_std)
        self._epochs = 1.0

    def use_counts(self, counts: Tensor) -> None:
        """Take the counts that tell how often an id's row is touched."""
        self.counts = counts.float()

    def end_stage(self, clock: Clock) -> None:
        """Remember how many passes the first stage has made."""
        self._epochs = clock.step / clock.steps_per_epoch

    def learning_rates(self) -> tuple[float, float]:
        """Go on carefully once blocks are shared: the full table was at its best already."""
        return (1.0, 1.0) if self.stage == "train" else (0.1, 0.1)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]: own rows in the first stage, shared ones in the second."""
        if self.index is None:
            return self.rows(ids + self.offset[slot])  # type: ignore[no-any-return]
        number = ids // self.config.block
        stored = self.index[number + self.start[slot]].long()
        return self.rows((stored - number) * self.config.block + ids)  # type: ignore[no-any-return]

    def set_stage(self, stage: str) -> None:
        """Share the blocks of the trained table; once shared they stay so."""
        super().set_stage(stage)
        if stage == "train" or self.index is not None:
            return
        config, device = self.config, self.offset.device
        owner = torch.zeros(sum(config.blocks_of(self.features)), dtype=torch.int32, device=device)
        shared = self.make_rows(config.blocks * config.block, self.dim, 0.0)
        if not self.offset.is_meta:
            with torch.no_grad():
                found, blocks = merge_blocks(*self._blocks(), config.blocks)
                shared.assign(blocks.flatten(0, 1))
            owner.copy_(found)
        self.index, self.rows = owner, shared

    def _blocks(self) -> tuple[Tensor, Tensor]:
        """Return the trained rows by block [n, block, dim], and their weights; rows of padding weigh 0."""
        block, device = self.config.block, self.offset.device
        sizes = torch.tensor([feature.num_ids for feature in self.features], device=device)
        blocks = torch.tensor(self.config.blocks_of(self.features), device=device)
        slot = torch.repeat_interleave(torch.arange(len(sizes), device=device), blocks)
        number = torch.arange(len(slot), device=device) - self.start[slot]
        ids = number[:, None] * block + torch.arange(block, device=device)
        inside = ids < sizes[slot][:, None]
        rows = torch.where(inside, ids + self.offset[slot][:, None], 0)
        weights = self.rows.squared_gradients(self.counts.to(device) * self._epochs) ** _POWER
        return self.rows.values()[rows] * inside[..., None], weights[rows] * inside

    def freeze(self) -> FrozenTable:
        """Return the shared rows, and the index packed."""
        if self.index is None:
            raise RuntimeError("dedup shares no blocks before its stage 'share'")
        index = pack(self.index[:, None], code_bits(self.config.blocks))
        return FrozenDedup(index, self.rows.values(), self.start, self.config.block)

    def search_space(self) -> dict[str, Sequence[Any]]:
        """Return sizes of blocks: small ones find more alike, large ones need less of an index."""
        return {"block": [1, 2, 4, 8, 16]}

    def stats(self) -> dict[str, float]:
        """Return stored blocks, and how many blocks of ids share one on average."""
        return {
            "blocks": self.config.blocks,
            "blocks_per_stored": sum(self.config.blocks_of(self.features)) / self.config.blocks,
        }
