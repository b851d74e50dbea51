"""How much memory a run of a grid will take: what its tables hold while training, and what any run holds."""

from __future__ import annotations

import torch

from slimtab.collection import TableCollection
from slimtab.config import RunConfig
from slimtab.data.loader import BLOCK_ROWS, BUFFER_BLOCKS
from slimtab.schema import Schema
from slimtab.training.optimizers import fused_rows, train_bytes

# Measured on runs whose tables were next to nothing: Python, torch, the libraries, a network and its batches.
_BASE = 650 * 10**6
# Of what tables hold while training: themselves, and what a checkpoint or the best weights take beside them.
_COPIES = 3
# Of the full table that frozen lookups are timed against, what is read of it at most.
_FULL_READ = 250 * 10**6


def estimate(config: RunConfig, schema: Schema) -> int:
    """Return about how many bytes a run will hold at most; nothing is allocated for it.

    The dataset's mapped pages are left out, as the kernel takes them back when memory is short.

    Args:
        config: of the run.
        schema: of its dataset.

    Raises:
        SlimtabError: when a table setting is wrong.
    """
    table = config.table
    with torch.device("meta"):
        tables = TableCollection.build(
            schema.features,
            table.dim,
            table.method,
            table.budget,
            table.options,
            fused_rows(config.optimizer),
            rules=table.rules,
        )
    row = 4 * (1 + len(schema.numerics)) + 8 * len(schema.features)
    rows = [min(schema.rows[split], BLOCK_ROWS * BUFFER_BLOCKS) for split in ("train", "valid")]
    full = min(schema.full_bytes(table.dim), _FULL_READ)
    return _BASE + row * sum(rows) + _COPIES * train_bytes(tables) + full
