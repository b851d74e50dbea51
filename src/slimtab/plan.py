"""Bytes before training: what a method makes of a schema and a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings, RanksSettings, Rule
from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.errors import SlimtabError
from slimtab.schema import Feature, Schema
from slimtab.sizes import format_bytes, parse_bytes
from slimtab.tables.base import EmbeddingTable, in_last_stage, methods
from slimtab.training.engine.factory import RanksFactory
from slimtab.training.engine.planner import Cluster, collections, place
from slimtab.training.engine.sharded import ShardedRows
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


def plan_ranks(
    schema: Schema,
    method: str,
    budget: str | int | None,
    dim: int,
    options: Mapping[str, Any] | None,
    rules: Sequence[Rule],
    *,
    ranks: int,
    memory: int,
    batch: int,
) -> dict[str, Any]:
    """Return what a training over ranks would hold on each, as TorchRec's planner spreads it.

    Args:
        schema: of the dataset.
        method: registered name; the further arguments up to ``rules`` are those of :func:`plan`.
        budget: see there.
        dim: see there.
        options: see there.
        rules: see there.
        ranks: number of ranks.
        memory: bytes of each.
        batch: rows of a step, all ranks' together.

    Returns:
        ``rows_bytes`` of the fullest rank (rows spread over ranks, their optimizer, what travels in a step),
        ``replicated_bytes`` of what every rank holds, ``memory_bytes``, ``estimated_milliseconds`` of lookups
        on the slowest rank as the planner has it, and ``traffic_bytes``, the most that goes between a rank
        and the others in a step.

    Raises:
        SlimtabError: when it does not fit, with the number of ranks that it would need.
    """
    settings = RanksSettings()
    optimizer = fused_rows(OptimizerSettings(rows="rowwise_adagrad")).optimizer
    make_rows = RanksFactory(optimizer, parse_bytes(settings.shard_from))
    with torch.device("meta"):
        tables = TableCollection.build(schema.features, dim, method, budget, options, make_rows, rules=rules)
    stores = {
        name.replace(".", "_"): module
        for name, module in tables.named_modules()
        if isinstance(module, ShardedRows)
    }
    spread = sum(rows.train_bytes() for rows in stores.values())
    copies = train_bytes(tables) - spread
    if copies > memory:
        raise SlimtabError(
            f"every rank would hold {format_bytes(copies)} that {method} does not spread, and has "
            f"{format_bytes(memory)}; take more memory, a smaller budget, or a method that spreads its rows"
        )
    table = tables.table
    assert isinstance(table, EmbeddingTable)
    lookups = len(schema.features) * getattr(table, "probes", 1)
    cluster = Cluster(ranks, math.gcd(ranks, 8), memory - copies, batch, lookups)
    nbytes, milliseconds = [0], [0.0]
    if stores:
        placement = place(collections(stores), optimizer, cluster)
        nbytes, milliseconds = placement.nbytes, placement.milliseconds
    width = max((rows.width for rows in stores.values()), default=0)
    away = (ranks - 1) / ranks  # of the rows a rank looks up, the share that others hold
    return {
        "ranks": ranks,
        "memory_bytes": memory,
        "rows_bytes": max(nbytes),
        "replicated_bytes": copies,
        "estimated_milliseconds": max(milliseconds),
        "traffic_bytes": int(away * batch / ranks * lookups * (8 + 2 * 4 * width)) if stores else 0,
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
