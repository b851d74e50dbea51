"""Tables that turn an id into one or more row numbers and combine those rows: full, hash, unified."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.rows.base import Rows, RowsFactory

Combine = Literal["concat", "mean"]


class Addressing(nn.Module, abc.ABC):
    """From ids to row numbers; its persistent buffers are served with the rows."""

    @abc.abstractmethod
    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return row numbers [N, probes] int64 for ``ids`` [N] and ``slot`` [N], both int64."""

    def read(self, weight: Tensor, ids: Tensor, slot: Tensor) -> Tensor:
        """Return the rows [N · probes, w] of ``weight`` [R, w] that ids have, to be served."""
        return read_rows(weight, self(ids, slot).flatten())


def combine_rows(rows: Tensor, probes: int, combine: Combine) -> Tensor:
    """Combine ``rows`` [N · probes, w] to [N, probes · w] (concat) or [N, w] (mean)."""
    if probes == 1:
        return rows
    rows = rows.view(-1, probes, rows.shape[1])
    return rows.flatten(1) if combine == "concat" else rows.mean(dim=1)


class FrozenRows(FrozenTable):
    """Rows, the addressing that finds them, and perhaps a projection per feature."""

    weight: Tensor
    projection: Tensor | None

    def __init__(
        self, addressing: Addressing, weight: Tensor, probes: int, combine: Combine, projection: Tensor | None
    ) -> None:
        super().__init__()
        self.addressing, self.probes, self.combine = addressing, probes, combine
        self.register_buffer("weight", weight)
        self.register_buffer("projection", projection)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width]."""
        return combine_rows(self.addressing.read(self.weight, ids, slot), self.probes, self.combine)

    def project(self, pooled: Tensor) -> Tensor:
        """Apply the projection of each feature, where there is one."""
        return pooled if self.projection is None else project_features(pooled, self.projection)


def project_features(pooled: Tensor, projection: Tensor) -> Tensor:
    """Map [B, F, width] with ``projection`` [F, width, dim] to [B, F, dim]."""
    return torch.bmm(pooled.transpose(0, 1), projection).transpose(0, 1)


class AddressedTable(EmbeddingTable):
    """Base of the fast path. A subclass sets the attributes below in its constructor."""

    spreads = True
    addressing: Addressing
    rows: Rows
    probes: int = 1
    combine: Combine = "concat"
    projection: nn.Parameter | None

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
        self.register_parameter("projection", None)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width]."""
        return combine_rows(self.rows(self.addressing(ids, slot).flatten()), self.probes, self.combine)

    def project(self, pooled: Tensor) -> Tensor:
        """Apply the projection of each feature, where there is one."""
        return pooled if self.projection is None else project_features(pooled, self.projection)

    def freeze(self) -> FrozenTable:
        """Return rows and addressing as buffers."""
        projection = None if self.projection is None else self.projection.detach().clone()
        return FrozenRows(self.addressing, self.rows.values(), self.probes, self.combine, projection)

    def stats(self) -> dict[str, float]:
        """Return rows, and ids that share a row on average."""
        ids = sum(feature.num_ids for feature in self.features)
        return {"rows": self.rows.num_rows, "ids_per_row": ids * self.probes / self.rows.num_rows}
