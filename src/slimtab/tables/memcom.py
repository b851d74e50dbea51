"""MEmCom: a hashed row, scaled and shifted by numbers of the id's own.

Pansare et al., "Learning compressed embeddings for on-device inference", MLSys 2022. Ids that share a row
still differ: e(x) = E[h(x)] · (1 + s_x) + b_x. What an id owns is one or two floats instead of ``dim``.

The rows are one table for all features, each with a hash of its own, as in unified embedding and unlike the
paper, whose every feature has a table: rows then are not split by a rule, each serves equally many ids, and
the scalars tell ids of two features apart as well as two of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.hashing import MAX_ROWS, hash_rows, make_salts
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory


@dataclass(frozen=True)
class MemcomConfig(TableConfig):
    """Settings of :class:`Memcom`.

    Attributes:
        rows: rows of the shared table.
        bias: give each id a number that is added to every coordinate, beside the one that scales.
    """

    by_budget = ("rows",)

    rows: int = 0
    bias: bool = True

    @classmethod
    def _fixed_bytes(cls, features: Sequence[Feature], config: MemcomConfig) -> int:
        per_id = 8 if config.bias else 4
        return per_id * sum(feature.num_ids for feature in features) + 8 * len(features)

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return what the ids own, one row, and the salts."""
        return cls._fixed_bytes(features, cls(**options)) + 4 * dim

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> MemcomConfig:
        rows = (nbytes - cls._fixed_bytes(features, cls(**options))) // (4 * dim)
        return cls(**{**options, "rows": min(rows, MAX_ROWS)})


class _Addresses(nn.Module):
    """From ids to the row they share and the one they own."""

    salt: Tensor
    offset: Tensor

    def __init__(self, features: Sequence[Feature], rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.register_buffer("salt", make_salts([f.name for f in features], 1)[:, 0].contiguous())
        self.register_buffer("offset", starts(feature.num_ids for feature in features), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Return shared and own row numbers, both [N] int64."""
        row = hash_rows(ids, self.salt.index_select(0, slot), self.rows)
        return row, self.offset.index_select(0, slot).add_(ids)


def _scaled(rows: Tensor, own: Tensor) -> Tensor:
    """Return [N, dim]: ``rows`` times the first column of ``own``, plus its second where there is one."""
    if own.shape[1] == 1:
        return rows * own
    return torch.addcmul(own[:, 1:], rows, own[:, :1])


class _FrozenMemcom(FrozenTable):
    """Shared rows, and factor and bias of each id."""

    shared: Tensor
    own: Tensor

    def __init__(self, addresses: _Addresses, shared: Tensor, own: Tensor) -> None:
        super().__init__()
        self.addresses = addresses
        self.register_buffer("shared", shared)
        self.register_buffer("own", own)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.shared, self.own, ids, slot):
            from slimtab.kernels.memcom import read_memcom

            hashes = self.addresses.salt[:, None], self.addresses.offset
            return read_memcom(self.shared, self.own, *hashes, ids, slot)
        row, place = self.addresses(ids, slot)
        own = read_rows(self.own, place)
        # In place, in two steps: a fresh result, or columns spread over rows by addcmul, cost another read.
        vectors = read_rows(self.shared, row).mul_(own[:, :1])
        return vectors.add_(own[:, 1:]) if own.shape[1] > 1 else vectors


class Memcom(EmbeddingTable, method="memcom"):
    """Rows shared by hash, and a factor (and bias) of each id's own."""

    kind = "static sharing"
    paper = "Pansare et al., MLSys 2022"
    spreads = True
    Config = MemcomConfig

    rest: Tensor

    def __init__(
        self,
        config: MemcomConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.addresses = _Addresses(features, config.rows)
        self.shared = make_rows(config.rows, dim, init_std)
        # Stored as s and b of 1 + s and b: decay then leaves an id that is never seen its plain row.
        self.own = make_rows(sum(feature.num_ids for feature in features), 1 + config.bias, 0.0)
        rest = torch.tensor([1.0, 0.0] if config.bias else [1.0])
        self.register_buffer("rest", rest, persistent=False)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        row, place = self.addresses(ids, slot)
        return _scaled(self.shared(row), self.own(place) + self.rest)

    def freeze(self) -> FrozenTable:
        """Return rows, factors and biases as buffers."""
        return _FrozenMemcom(self.addresses, self.shared.values(), self.own.values() + self.rest)

    def stats(self) -> dict[str, float]:
        """Return shared rows, and ids to each on average."""
        return {"rows": self.shared.num_rows, "ids_per_row": self.own.num_rows / self.shared.num_rows}
