"""DeepLight's embedding part: a table is trained whole, then pruned by magnitude a little more each time.

Deng et al., "DeepLight: deep lightweight feature interactions for accelerating CTR predictions in ad
serving", WSDM 2021. The share that is pruned after t of U steps is R · (1 − D^(t/U)): most of it early on,
while the network can still adapt. What was pruned may grow back until it is pruned again. Here the rate R
is what the byte budget demands, it is reached within one epoch (``ramp``), and a last stage trains what an
exact cut leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimtab.tables.parts.pruning import PrunedTable
from slimtab.tables.rows.base import Rows
from slimtab.tables.rows.fused import FusedRows

_CHUNK = 1 << 16  # rows pruned at a time


class DeepLight(PrunedTable, method="deeplight"):
    """A full table, pruned by magnitude."""

    paper = "Deng et al., WSDM 2021"
    stages = ("train", "prune", "finetune")
    pruning = "prune"

    def scores(self, values: Tensor, slot: Tensor) -> Tensor:
        """Return magnitudes."""
        return values.abs()

    def cut_off(self, values: Tensor, slot: Tensor, limit: Tensor) -> Tensor:
        """Return what is no smaller than ``limit``."""
        return values * (values.abs() >= limit)

    def prune(self, limit: Tensor) -> None:
        """Zero what is no larger than ``limit``: one pass over the table."""
        zero_up_to(self.rows, limit)

    def learning_rates(self) -> tuple[float, float]:
        """Go on more carefully from stage to stage: the table was at its best already."""
        return {"train": (1.0, 1.0), "prune": (0.3, 0.3), "finetune": (0.1, 0.1)}[self.stage]


@torch.no_grad()
def zero_up_to(rows: Rows, limit: Tensor) -> None:
    """Set to zero what is no larger than ``limit`` [] in magnitude; what an optimizer knows of it stays."""
    if isinstance(rows, FusedRows):
        stored, limit = rows.packed[:, : rows.width], limit / rows.scale.float()
    else:
        stored = next(rows.parameters()).data
    for chunk in torch.split(stored, _CHUNK):
        chunk.masked_fill_(chunk.abs() <= limit, 0.0)
