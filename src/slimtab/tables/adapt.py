"""AdaptEmb: frequent ids own a row, rare ids share what is left.

The adaptive embedding of DeepRec, as in Zhang et al., "Experimental analysis of large-scale learnable vector
storage compression", VLDB 2024. There, each id has an index entry, which takes 4 bytes that no budget counts.
Here ids are numbered by falling frequency, so a feature's frequent ids are its first ones, and all there is
to keep is how many.

Which ids are frequent is settled by one count threshold over all features: a share per feature would give
small features rows they cannot use.
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
from slimtab.tables.base import TableConfig
from slimtab.tables.parts.addressed import AddressedTable, Addressing
from slimtab.tables.parts.sizing import largest
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory


@dataclass(frozen=True)
class AdaptConfig(TableConfig):
    """Settings of :class:`Adapt`.

    Attributes:
        hot: rows owned by one id each.
        rare: rows that all other ids share.
        hot_share: share of the rows that single ids own.
    """

    by_budget = ("hot", "rare")

    hot: int = 0
    rare: int = 0
    hot_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.hot_share < 1:
            raise SlimtabError(
                f"adapt cannot give a share of {self.hot_share} of its rows to frequent ids; "
                "set hot_share to 0 or more, and below 1"
            )

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one row for all ids, and the numbers of frequent ids."""
        return 4 * dim + 8 * len(features)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> AdaptConfig:
        rows, ids = (nbytes - 8 * len(features)) // (4 * dim), sum(feature.num_ids for feature in features)
        if rows >= ids:
            return cls(hot=ids, rare=0, **options)
        hot = int(cls(**options).hot_share * rows)
        return cls(hot=hot, rare=rows - hot, **options)


def spread_evenly(sizes: Sequence[int], total: int) -> list[int]:
    """Split ``total`` over features of ``sizes`` ids: the same number for each, or all ids of small ones."""

    def at(limit: int) -> list[int]:
        return [min(size, limit) for size in sizes]

    limit = largest(lambda limit: sum(at(limit)) <= total, 0, max(sizes))
    shares, left = at(limit), total - sum(at(limit))
    for slot, size in enumerate(sizes):
        extra = min(left, size - shares[slot], 1)
        shares[slot] += extra
        left -= extra
    return shares


def most_frequent(counts: Tensor, sizes: Sequence[int], total: int) -> Tensor:
    """Return how many of each feature's first ids [F] are among the ``total`` most frequent of all.

    Args:
        counts: [Σ sizes] int64, feature after feature. An id before a more frequent one (as the
            out-of-vocabulary id 0 may be) counts as much as that one.
        sizes: number of ids of each feature.
        total: how many to choose; among equals, ids of lower number go first.
    """
    parts = torch.split(counts, list(sizes))
    falling = torch.cat([part.flip(0).cummax(0).values.flip(0) for part in parts])
    by_id = torch.argsort(torch.cat([torch.arange(size) for size in sizes]), stable=True)
    order = by_id[torch.argsort(falling[by_id], descending=True, stable=True)]
    slot = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.bincount(slot[order[:total]], minlength=len(sizes))


class _AdaptAddressing(Addressing):
    """Frequent ids first, feature after feature; rare ones are numbered through and dealt out in turn.

    Dealing gives each shared row the same number of ids, give or take one, which no hash does.
    """

    hot: Tensor
    offset: Tensor

    def __init__(self, features: Sequence[Feature], config: AdaptConfig) -> None:
        super().__init__()
        sizes = [feature.num_ids for feature in features]
        self.rows, self.rare = config.hot, max(1, config.rare)
        self.register_buffer("hot", torch.tensor(spread_evenly(sizes, config.hot)))
        self.register_buffer("offset", starts(sizes), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        if kernels.ready(self.hot, ids, slot):
            from slimtab.kernels.adapt import adapt_rows

            return adapt_rows(self.hot, self.offset, self.rows, self.rare, ids, slot)[:, None]
        start = torch.cumsum(self.hot, 0) - self.hot  # of each feature's own rows
        own = ids + start[slot]
        # As many rare ids stand before a feature's as it has ids before it that own no row.
        shared = self.rows + (ids + (self.offset - start - self.hot)[slot]) % self.rare
        return torch.where(ids < self.hot[slot], own, shared)[:, None]


class Adapt(AddressedTable, method="adapt"):
    """Rows for frequent ids, shared rows for the rest."""

    kind = "dynamic sharing"
    paper = "DeepRec; Zhang et al., VLDB 2024"
    by_frequency = True
    Config = AdaptConfig
    config: AdaptConfig
    addressing: _AdaptAddressing

    def __init__(
        self,
        config: AdaptConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.addressing = _AdaptAddressing(features, config)
        self.rows = make_rows(config.hot + config.rare, dim, init_std)

    def use_counts(self, counts: Tensor) -> None:
        """Give rows to the most frequent ids of all features; without counts, to as many ids of each."""
        sizes = [feature.num_ids for feature in self.features]
        self.addressing.hot.copy_(most_frequent(counts, sizes, self.config.hot))

    def search_space(self) -> dict[str, Sequence[Any]]:
        """Return shares of rows for frequent ids."""
        return {"hot_share": [0.25, 0.5, 0.75, 0.9]}

    def stats(self) -> dict[str, float]:
        """Return rows of either kind, and how many rare ids share one."""
        rare = sum(feature.num_ids for feature in self.features) - self.config.hot
        return {
            "hot_rows": self.config.hot,
            "shared_rows": self.config.rare,
            "ids_per_shared_row": rare / max(1, self.config.rare),
        }
