"""Rows as an ordinary parameter: any torch optimizer trains them, in code that knows nothing of slimtab."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.tables.rows.base import Rows, RowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer


class PlainRows(Rows):
    """Rows as an ordinary parameter, for any torch optimizer. The class is a :class:`RowsFactory` itself."""

    optimizer: ClassVar[RowOptimizer | None] = None

    def __init__(self, num_rows: int, width: int, init_std: float) -> None:
        super().__init__()
        self.num_rows, self.width = num_rows, width
        weight = torch.empty(num_rows, width)
        # There is nothing to draw on the meta device, and to try loads torch's compiler, for a second or two.
        self.weight = nn.Parameter(weight if weight.is_meta else weight.normal_(0.0, init_std))

    @classmethod
    def together(cls) -> RowsFactory:
        """Return the class: its rows stand in one process."""
        return cls

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width]; gradients reach ``weight``."""
        return F.embedding(address, self.weight)

    def values(self) -> Tensor:
        """Return a copy of all rows: training on must not change what was frozen."""
        return self.weight.detach().clone()

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Replace all rows; the state of an optimizer elsewhere is not known here and stays."""
        self.weight.copy_(values)

    @torch.no_grad()
    def multiply(self, factors: Tensor) -> None:
        """Multiply each row by its factor."""
        self.weight.mul_(factors[:, None])

    @torch.no_grad()
    def take(self, source: Rows, address: Tensor) -> None:
        """Replace all rows; the state of an optimizer elsewhere is not known here and stays."""
        self.weight.copy_(source(address))

    @torch.no_grad()
    def copy_rows(self, source: Tensor, target: Tensor) -> None:
        """Copy rows; the state of an optimizer elsewhere is not known here and stays."""
        self.weight[target] = self.weight[source]

    def train_bytes(self) -> int:
        """Bytes of the weight; its optimizer belongs to somebody else."""
        return 4 * self.num_rows * self.width
