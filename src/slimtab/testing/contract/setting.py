"""What is tested: one method at one setting, small enough to train within a test."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings
from slimtab.models.base import CTRModel, build_model
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable
from slimtab.tables.rows.base import RowsFactory
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.testing.fakes import fake_schema
from slimtab.testing.training import planted_batches, walk_stages
from slimtab.training.optimizers import fused_rows

RATES = OptimizerSettings(rows_lr=0.02, rows_decay=0.1, lr=0.002)


class Setting:
    """One method at one setting, and what can be built of it.

    Attributes:
        method: registered name.
        options: options of its config.
        budget: serving bytes it is tested at; for methods of a fixed size, that size or more.
        dim: embedding width.
        tolerance: how far a frozen table may be from eval, absolutely (0: bit for bit).
        spread: by how much the standard deviation of start values may miss, relatively.
        distinguishes: whether the same id of two features has two vectors.
    """

    method: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    budget: ClassVar[str] = "25%"
    dim: ClassVar[int] = 8
    tolerance: ClassVar[float] = 0.0
    spread: ClassVar[float] = 0.1
    distinguishes: ClassVar[bool] = True

    schema = fake_schema([7, 3000, 300, 1, 300], multi_hot=[2000])

    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """Whether the method's next larger step does not fit ``nbytes``; one row of ``dim`` for most."""
        return nbytes - counted < 4 * dim

    def build(
        self, make_rows: RowsFactory | None = None, seed: int = 0, init_std: float = 0.1
    ) -> TableCollection:
        """Return a new collection."""
        torch.manual_seed(seed)
        rows = make_rows or FusedRowsFactory(RowOptimizer(lr=0.02))
        counts = {f.name: torch.arange(f.num_ids, 0, -1).numpy() for f in self.schema.features}
        return TableCollection.build(
            self.schema.features,
            self.dim,
            self.method,
            self.budget,
            self.options,
            rows,
            init_std,
            "error",
            counts,
        )

    def table(self, collection: TableCollection) -> EmbeddingTable:
        """Return the collection's table."""
        assert isinstance(collection.table, EmbeddingTable)
        return collection.table

    def model(self, collection: TableCollection, seed: int = 0) -> CTRModel:
        """Return a small DeepFM over the collection."""
        torch.manual_seed(seed)
        return build_model("deepfm", collection, len(self.schema.numerics), {"mlp": [16]})

    def trained(self) -> CTRModel:
        """Return a model trained for a few steps in every stage, in eval mode."""
        model = self.model(self.build(fused_rows(RATES, 4)))
        walk_stages(model, planted_batches(self.schema, 4, 256, seed=1), RATES)
        return model.eval()

    def vectors(self, table: EmbeddingTable, ids: Tensor, slot: Tensor) -> Tensor:
        """Return projected vectors [N, dim] of single ids."""
        looked_up = table(ids, slot)
        pooled = looked_up.new_zeros(len(ids), len(table.features), looked_up.shape[1])
        pooled[torch.arange(len(ids)), slot] = looked_up
        return table.project(pooled)[torch.arange(len(ids)), slot]
