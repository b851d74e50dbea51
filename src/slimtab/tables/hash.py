"""Hashing trick: each feature keeps fewer rows than ids and hashes its ids onto them.

Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009; with several probes,
Serrà & Karatzoglou, "Getting deep recommenders fit: Bloom embeddings", RecSys 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab import kernels
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import TableConfig
from slimtab.tables.hashing import hash_rows, make_salts
from slimtab.tables.parts.addressed import AddressedTable, Addressing
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory

# A feature stays exact up to 2000 · share ids (the rule of CAFE, SIGMOD 2024): 200 ids at 10 %, 40 at 2 %.
_EXACT_PER_SHARE = 2000


@dataclass(frozen=True)
class HashConfig(TableConfig):
    """Settings of :class:`Hash`.

    Attributes:
        rows: rows of each feature; a feature with as many rows as ids is kept exact.
        probes: rows averaged for each id, each found by its own hash.
    """

    by_budget = ("rows",)

    rows: tuple[int, ...] = ()
    probes: int = 1

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise SlimtabError(f"hash cannot read {self.probes} rows per id; set probes to 1 or more")

    @classmethod
    def seed_bytes(cls, features: Sequence[Feature], probes: int) -> int:
        """Bytes of salts and rows per feature."""
        return 8 * len(features) * (probes + 1)  # salts, and rows per feature

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one row per feature, and the seeds."""
        return 4 * dim * len(features) + cls.seed_bytes(features, cls(**options).probes)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> HashConfig:
        sizes = [feature.num_ids for feature in features]
        limit = (nbytes - cls.seed_bytes(features, cls(**options).probes)) // (4 * dim)
        threshold = _EXACT_PER_SHARE * limit / sum(sizes)

        def rows_at(share: float) -> list[int]:
            return [n if n <= threshold else max(1, min(n, int(share * n))) for n in sizes]

        if sum(rows_at(0.0)) > limit:  # the exact features alone are too many: hash them too
            threshold = 0.0
        low, high = 0.0, 1.0
        if sum(rows_at(high)) > limit:
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if sum(rows_at(middle)) <= limit else (low, middle)
        else:
            low = high
        rows = rows_at(low)
        # Shares are rounded down; the largest features take the rows left over.
        left = limit - sum(rows)
        for slot in sorted(range(len(sizes)), key=lambda slot: -sizes[slot]):
            extra = min(left, sizes[slot] - rows[slot])
            rows[slot] += extra
            left -= extra
        return cls(rows=tuple(rows), **options)


class _HashAddressing(Addressing):
    """Each feature hashes into rows of its own; exact features use the id itself."""

    salt: Tensor
    size: Tensor
    offset: Tensor
    exact: Tensor

    def __init__(self, features: Sequence[Feature], config: HashConfig) -> None:
        super().__init__()
        exact = [
            f.encoding == "vocab" and rows >= f.num_ids for f, rows in zip(features, config.rows, strict=True)
        ]
        self.register_buffer("salt", make_salts([feature.name for feature in features], config.probes))
        self.register_buffer("size", torch.tensor(config.rows))
        self.register_buffer("offset", starts(config.rows), persistent=False)
        self.register_buffer("exact", torch.tensor(exact), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        if kernels.ready(ids, slot, self.salt):
            from slimtab.kernels import hashing as compiled

            return compiled.hash_own_rows(ids, slot, self.salt, self.size, self.offset, self.exact)
        size = self.size.index_select(0, slot)[:, None]
        hashed = hash_rows(ids[:, None], F.embedding(slot, self.salt), size)
        inside = torch.where(self.exact.index_select(0, slot)[:, None], ids[:, None], hashed)
        return inside + self.offset.index_select(0, slot)[:, None]


class Hash(AddressedTable, method="hash"):
    """Per-feature tables of hashed rows; small features stay exact."""

    kind = "static sharing"
    hashes_ids = True
    paper = "Weinberger et al., ICML 2009"
    Config = HashConfig
    combine = "mean"

    def __init__(
        self,
        config: HashConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.probes = config.probes
        self.addressing = _HashAddressing(features, config)
        # A mean of k rows has 1/k of their variance.
        self.rows = make_rows(sum(config.rows), dim, init_std * config.probes**0.5)

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of each feature's own rows and seeds."""
        assert isinstance(self.config, HashConfig)
        seeds = HashConfig.seed_bytes(self.features[:1], self.probes)
        return [4 * self.dim * rows + seeds for rows in self.config.rows]
