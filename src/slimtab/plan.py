"""Bytes before training: what a method makes of a schema and a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings, Rule
from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.schema import Feature, Schema
from slimtab.tables.base import EmbeddingTable, in_last_stage, methods
from slimtab.training.optimizers import fused_rows, train_bytes


def plan(
    schema: Schema,
    method: str,
    budget: str | int | None = None,
    dim: int = 16,
    options: Mapping[str, Any] | None = None,
    rules: Sequence[Rule] = (),
) -> dict[str, Any]:
    """Return bytes of the full tables, of serving and of training, in all and by feature.

    Nothing is allocated: the table is built on torch's meta device.

    Args:
        schema: of the dataset.
        method: registered name.
        budget: as in :meth:`TableCollection.build`.
        dim: embedding width.
        options: fields of the method's config.
        rules: other methods for some of the features, within the same budget.

    Raises:
        SlimtabError: when the method is unknown or cannot reach the budget.
    """
    with torch.device("meta"):
        tables = TableCollection.build(
            schema.features, dim, method, budget, options, fused_rows(OptimizerSettings()), rules=rules
        )
        table = tables.table
        assert isinstance(table, EmbeddingTable)
        held = train_bytes(tables)  # in the first stage, when nothing is small yet
        by_feature = in_last_stage(table).bytes_by_feature()
        return {
            "method": method,
            "num_ids": sum(feature.num_ids for feature in schema.features),
            "full_bytes": schema.full_bytes(dim),
            "serve_bytes": table.serve_bytes(),
            "train_bytes": held,
            "features": [
                {
                    "name": f.name,
                    "num_ids": f.num_ids,
                    "full_bytes": 4 * dim * f.num_ids,
                    "serve_bytes": nbytes,
                }
                for f, nbytes in zip(table.features, by_feature, strict=True)
            ],
        }


def describe_methods() -> list[dict[str, Any]]:
    """Return name, class, paper, stages and smallest share of every method, on Criteo Kaggle at width 16."""
    features = [Feature(f"C{number}", num_ids) for number, num_ids in enumerate(CRITEO_KAGGLE, start=1)]
    full = 4 * 16 * sum(CRITEO_KAGGLE)
    return [
        {
            "name": name,
            "class": table.kind,
            "paper": table.paper,
            "stages": list(table.stages),
            "smallest_share": table.Config.smallest_bytes(features, 16) / full,
        }
        for name, table in methods().items()
    ]
