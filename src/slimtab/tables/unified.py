"""Unified embedding: one table for all features, each with its own salted hashes.

Coleman et al., "Unified embedding: battle-tested feature representations for web-scale ML systems",
NeurIPS 2023. An id reads ``probes`` rows and concatenates them. Two ids of one feature collide fully only
when all probes agree, and what other features leave in a row the network learns to ignore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimtab import kernels
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import TableConfig
from slimtab.tables.hashing import MAX_ROWS, make_salts, salted_words, spread
from slimtab.tables.parts.addressed import AddressedTable, Addressing
from slimtab.tables.rows.base import RowsFactory


@dataclass(frozen=True)
class UnifiedConfig(TableConfig):
    """Settings of :class:`Unified`.

    Attributes:
        rows: rows of the shared table, each ``dim / probes`` wide.
        probes: rows concatenated for each id; divides ``dim``.
        project: give each feature a learned dim × dim map after the lookup, for models whose interactions
            compare features coordinate by coordinate. Its floats are counted.
    """

    by_budget = ("rows",)

    rows: int = 0
    probes: int = 4
    project: bool = False

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise SlimtabError(f"unified cannot read {self.probes} rows per id; set probes to 1 or more")

    @classmethod
    def _fixed_bytes(cls, features: Sequence[Feature], dim: int, config: UnifiedConfig) -> int:
        if dim % config.probes:
            fitting = max(probes for probes in range(1, config.probes) if dim % probes == 0)
            raise SlimtabError(
                f"unified reads {config.probes} rows per id, which does not divide the width {dim}; "
                f"set its option probes to a divisor, such as table.options.probes={fitting}"
            )
        return len(features) * (8 * _words(config.probes) + (4 * dim * dim if config.project else 0))

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one row, the salts, and the projections where they are on."""
        config = cls(**options)
        return cls._fixed_bytes(features, dim, config) + 4 * dim // config.probes

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> UnifiedConfig:
        config = cls(**options)
        rows = (nbytes - cls._fixed_bytes(features, dim, config)) // (4 * dim // config.probes)
        return cls(**{**options, "rows": min(rows, MAX_ROWS)})


def _words(probes: int) -> int:
    """Mixed words an id needs: each tells two rows."""
    return -(-probes // 2)


class _SharedAddressing(Addressing):
    """All features hash into the same rows, each pair of probes of each feature with its own salt."""

    salt: Tensor

    def __init__(self, features: Sequence[Feature], config: UnifiedConfig) -> None:
        super().__init__()
        self.rows, self.probes = config.rows, config.probes
        self.register_buffer("salt", make_salts([f.name for f in features], _words(config.probes)))

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        return spread(salted_words(ids, slot, self.salt), self.rows)[:, : self.probes]

    def read(self, weight: Tensor, ids: Tensor, slot: Tensor) -> Tensor:
        if not kernels.ready(weight, ids, slot):
            return super().read(weight, ids, slot)
        from slimtab.kernels.chunks import read_chunks

        width = weight.shape[1]
        return read_chunks(weight.view(-1), self.salt, ids, slot, width, self.probes, width).view(-1, width)


class Unified(AddressedTable, method="unified"):
    """One multiplexed table shared by every feature of the group."""

    kind = "static sharing"
    hashes_ids = True
    paper = "Coleman et al., NeurIPS 2023"
    Config = UnifiedConfig

    def __init__(
        self,
        config: UnifiedConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.probes = config.probes
        self.addressing = _SharedAddressing(features, config)
        self.rows = make_rows(config.rows, dim // config.probes, init_std)
        if config.project:
            self.projection = nn.Parameter(torch.eye(dim).repeat(len(features), 1, 1))
