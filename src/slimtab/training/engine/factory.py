"""Which rows are spread over ranks, and which stand on each."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from slimtab.errors import SlimtabError
from slimtab.tables.rows.base import Rows, RowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.training.engine.replicated import ReplicatedRows
from slimtab.training.engine.sharded import ShardedRows

_FBGEMM_WIDTH = 4  # divides the width of every row fbgemm takes


@dataclass(frozen=True)
class RanksFactory:
    """Makes rows for ranks: large stores are spread over them, small ones stand on each.

    So do rows whose width 4 does not divide, which fbgemm does not take.

    Attributes:
        optimizer: fused into all rows made.
        shard_from: bytes of values from which on a store is spread.
    """

    optimizer: RowOptimizer
    shard_from: int

    def __call__(self, num_rows: int, width: int, init_std: float) -> Rows:
        """Return rows of ``width`` floats.

        Raises:
            SlimtabError: when they are to be spread and fbgemm lacks their optimizer.
        """
        if 4 * num_rows * width < self.shard_from or width % _FBGEMM_WIDTH:
            return ReplicatedRows(num_rows, width, init_std, self.optimizer)
        if self.optimizer.kind != "rowwise_adagrad":
            raise SlimtabError(
                f"rows spread over ranks are moved by fbgemm, which has no {self.optimizer.kind} on CPUs; "
                "set optimizer.rows=rowwise_adagrad, or raise ranks.shard_from above the table's size"
            )
        return ShardedRows(num_rows, width, init_std, self.optimizer)

    def together(self) -> RowsFactory:
        """Return a factory of rows that stand on every rank, for methods that read all of theirs at once."""
        return RanksFactory(self.optimizer, sys.maxsize)
