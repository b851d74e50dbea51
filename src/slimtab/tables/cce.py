"""CCE: an id's vector is pointed at, and where it points is learned by clustering.

Tsang & Ahle, "Clustering the sketch: dynamic compression for embedding tables", NeurIPS 2023. A vector has
``columns`` parts, each the sum of two rows: one a pointer leads to, one a hash. After an epoch the sums are
clustered: pointers then lead to clusters of ids that turned out alike, and the hashed rows start anew as
what the centroids leave over. The pointers have to be served, and at small budgets they outweigh the rows.
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
from slimtab.tables.hashing import hash_rows, make_salts, mix64
from slimtab.tables.parts.clusters import cluster
from slimtab.tables.parts.codes import pack_codes, packed_code_bytes, read_codes
from slimtab.tables.parts.packing import code_bits
from slimtab.tables.parts.reading import join_rows, read_rows
from slimtab.tables.parts.sizing import largest
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory

_CHUNK = 1 << 18  # ids whose vectors are gathered at a time
_LEAST_ROWS = 2  # with one row all ids would be alike
_MAX_ROWS = 1 << 28  # two codes are packed at a time


@dataclass(frozen=True)
class CCEConfig(TableConfig):
    """Settings of :class:`CCE`.

    Attributes:
        rows: rows that pointers choose from in each column, and rows that the hash chooses from.
        columns: parts of a vector, each with rows and pointers of its own; divides ``dim``.
        clusterings: how often pointers are learned: after each of the first so many epochs.
    """

    by_budget = ("rows",)

    rows: int = _LEAST_ROWS
    columns: int = 4
    clusterings: int = 3

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise SlimtabError(f"cce cannot make vectors of {self.columns} columns; set columns to 1 or more")
        if self.clusterings < 0:
            raise SlimtabError(f"cce cannot cluster {self.clusterings} times; set clusterings to 0 or more")

    def nbytes(self, features: Sequence[Feature], dim: int) -> int:
        """Return the bytes of rows, pointers and salts."""
        if dim % self.columns:
            fitting = max(columns for columns in range(1, self.columns) if dim % columns == 0)
            raise SlimtabError(
                f"cce's {self.columns} columns do not divide the width {dim}; "
                f"set its option columns to a divisor, such as table.options.columns={fitting}"
            )
        ids = sum(feature.num_ids for feature in features)
        pointers = packed_code_bytes(ids, self.columns, code_bits(self.rows))
        return 8 * dim * self.rows + pointers + 8 * self.columns * len(features)

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the size with two rows to choose from."""
        return cls(rows=_LEAST_ROWS, **options).nbytes(features, dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> CCEConfig:
        ids = sum(feature.num_ids for feature in features)

        def fits(rows: int) -> bool:
            return cls(rows=rows, **options).nbytes(features, dim) <= nbytes

        # More rows than ids would leave some without any.
        return cls(rows=largest(fits, _LEAST_ROWS, max(_LEAST_ROWS, min(ids, _MAX_ROWS))), **options)


class FrozenCCE(FrozenTable):
    """Rows of all columns, packed pointers, and salts."""

    weight: Tensor
    packed: Tensor
    salt: Tensor
    offset: Tensor

    def __init__(self, weight: Tensor, pointers: Tensor, salt: Tensor, offset: Tensor, rows: int) -> None:
        super().__init__()
        self.rows, self.columns, self.bits = rows, pointers.shape[1], code_bits(rows)
        self.register_buffer("weight", weight)
        self.register_buffer("packed", pack_codes(pointers, self.bits))
        self.register_buffer("salt", salt.clone())
        self.register_buffer("offset", offset.clone(), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.weight, self.salt, ids, slot):
            from slimtab.kernels.cce import read_cce

            return read_cce(self.weight, self.packed, self.salt, self.offset, self.bits, ids, slot)
        first = self.offset.index_select(0, slot).add_(ids).mul_(self.columns * self.bits)
        pointers = read_codes(self.packed, first, self.bits, self.columns)
        found = []
        # One column at a time: what it takes to hash one stays in the cache, and so do its rows.
        for column, (pointer, salt) in enumerate(zip(pointers, self.salt.unbind(dim=1), strict=True)):
            pointed = read_rows(self.weight, pointer.add_(self.rows * column))
            hashed = hash_rows(ids, salt.index_select(0, slot), self.rows)
            hashed.add_(self.rows * (self.columns + column))
            found.append(pointed.add_(read_rows(self.weight, hashed)))
        return join_rows(found)


class CCE(EmbeddingTable, method="cce"):
    """One set of columns for all features; a pointer per id and column, and a salted hash."""

    kind = "dynamic sharing"
    paper = "Tsang & Ahle, NeurIPS 2023"
    Config = CCEConfig

    pointers: Tensor
    salt: Tensor
    offset: Tensor
    weights: Tensor

    def __init__(
        self,
        config: TableConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        assert isinstance(config, CCEConfig)
        self.num_rows, self.columns, self.clusterings = config.rows, config.columns, config.clusterings
        sizes = [feature.num_ids for feature in features]
        # Pointed-at rows of all columns, then hashed ones; a sum of two has twice their variance.
        count, width = 2 * config.columns * config.rows, dim // config.columns
        self.rows = make_rows(count, width, init_std * 0.5**0.5)
        pointers = torch.randint(config.rows, (sum(sizes), config.columns), dtype=torch.int32)
        self.register_buffer("pointers", pointers)
        self.register_buffer("salt", make_salts([feature.name for feature in features], config.columns))
        self.register_buffer("offset", starts(sizes), persistent=False)
        self.register_buffer("weights", torch.ones(sum(sizes)), persistent=False)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        pointers = self.pointers.index_select(0, self.offset[slot] + ids)
        hashed = hash_rows(ids[:, None], self.salt[slot], self.num_rows)
        column = self.num_rows * torch.arange(2 * self.columns, device=ids.device)
        address = torch.cat([pointers, hashed], dim=1) + column
        rows: Tensor = self.rows(address.flatten()).view(len(ids), 2 * self.columns, self.rows.width)
        return (rows[:, : self.columns] + rows[:, self.columns :]).flatten(1)

    def use_counts(self, counts: Tensor) -> None:
        """Cluster ids by how often the training rows hold them."""
        self.weights.copy_(counts)

    def on_step(self, clock: Clock) -> None:
        """Cluster where an epoch has just ended.

        The clock decides, and it never goes back: a validation may put back the weights of an earlier step,
        and a count kept with them would cluster a second time.
        """
        epoch, step = divmod(clock.step, clock.steps_per_epoch)
        if step == 0 and 1 <= epoch <= self.clusterings:
            self.cluster()

    @torch.no_grad()
    def cluster(self) -> None:
        """Point every id to the cluster of its current sum, and hash what that leaves over anew."""
        rows = self.rows.values().view(2 * self.columns, self.num_rows, self.rows.width)
        # Every column's sums come from the old hash: its own column changes salts only after they are read.
        for column in range(self.columns):
            vectors = (
                rows[column][self.pointers[:, column]] + rows[self.columns + column][self._hashed(column)]
            )
            rows[column], owner = cluster(vectors, self.weights, self.num_rows)
            self.pointers[:, column] = owner
            self.salt[:, column] = mix64(self.salt[:, column])
            vectors -= rows[column][owner]
            rows[self.columns + column] = self._means(vectors, self._hashed(column))
        self.rows.assign(rows.flatten(0, 1))

    def _hashed(self, column: int) -> Tensor:
        """Return the hashed rows of all ids in one column [Σ num_ids]."""
        sizes = [feature.num_ids for feature in self.features]
        return torch.cat(
            [
                hash_rows(torch.arange(size, device=self.salt.device), salt[column], self.num_rows)
                for size, salt in zip(sizes, self.salt, strict=True)
            ]
        )

    def _means(self, vectors: Tensor, bucket: Tensor) -> Tensor:
        """Return the weighted mean of ``vectors`` in each bucket [rows, w]; 0 where nothing falls."""
        mass = self.weights.new_zeros(self.num_rows).index_add_(0, bucket, self.weights)
        total = vectors.new_zeros(self.num_rows, vectors.shape[1])
        total.index_add_(0, bucket, vectors * self.weights[:, None])
        return total / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None]

    def freeze(self) -> FrozenTable:
        """Return rows, packed pointers and salts."""
        return FrozenCCE(self.rows.values(), self.pointers, self.salt, self.offset, self.num_rows)

    def stats(self) -> dict[str, float]:
        """Return rows of a column, and ids that share one."""
        return {"rows": self.num_rows, "ids_per_row": len(self.pointers) / self.num_rows}
