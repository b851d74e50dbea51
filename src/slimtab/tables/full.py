"""Full table: each id owns a row. The yardstick, and the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slimtab.schema import Feature
from slimtab.tables.base import TableConfig
from slimtab.tables.parts.addressed import AddressedTable, Addressing
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory


@dataclass(frozen=True)
class FullConfig(TableConfig):
    """Nothing to set: n · dim floats."""

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return 4 · n · dim."""
        return 4 * dim * sum(feature.num_ids for feature in features)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> FullConfig:
        return cls(**options)


class _Offsets(Addressing):
    """The rows of all features stand in one matrix, one feature after another."""

    offset: Tensor

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        self.register_buffer("offset", starts(feature.num_ids for feature in features), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        return (ids + self.offset.index_select(0, slot))[:, None]


class Full(AddressedTable, method="full"):
    """One float32 row of ``dim`` for each id."""

    kind = "none"
    paper = "the uncompressed table"
    Config = FullConfig

    def __init__(
        self,
        config: FullConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.addressing = _Offsets(features)
        self.rows = make_rows(sum(feature.num_ids for feature in features), dim, init_std)

    def start_from(self, weight: Tensor) -> bool:
        """Take the rows as they are."""
        self.rows.assign(weight)
        return True
