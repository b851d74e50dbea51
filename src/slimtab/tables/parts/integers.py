"""Tables of integers: for each id a row of ``dim`` of them, times a step. What their methods share.

Rows that carry their optimizer are integers from the first training step on. When another optimizer moves
them they are a float parameter, rounded as it is read, and only serving is small.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.rows.quantised import QuantisedRows, clip_


class IntegersConfig(TableConfig):
    """Settings of a table of integers, which leave one size only: a budget chooses nothing."""

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> IntegersConfig:
        return cls(**options)


class NearestRows(PlainRows, abc.ABC):
    """A float parameter that is read rounded to the nearest step, for any torch optimizer."""

    def __init__(self, num_rows: int, width: int, init_std: float, dtype: torch.dtype) -> None:
        super().__init__(num_rows, width, init_std)
        self.dtype = dtype

    @abc.abstractmethod
    def served_step(self) -> Tensor:
        """Return the step as it is served: a scalar, or one for each row [num_rows]."""

    def served_numbers(self) -> Tensor:
        """Return all rows as integers [num_rows, width]."""
        return clip_((self.weight.detach() / self._step()).round_(), self.dtype).to(self.dtype)

    def values(self) -> Tensor:
        """Return all rows as they are read."""
        return self.served_numbers().float() * self._step()

    def _step(self) -> Tensor:
        return self.served_step().float().reshape(-1, 1)


class FrozenIntegers(FrozenTable):
    """Integers [ids, dim] and their step: a scalar, or one for each row [ids]."""

    numbers: Tensor
    step: Tensor
    offset: Tensor

    def __init__(self, numbers: Tensor, step: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("numbers", numbers)
        self.register_buffer("step", step)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        floats = torch.float16 if self.step.dim() else torch.float32
        if kernels.ready(self.numbers, self.step, ids, slot, floats=floats):
            from slimtab.kernels.integers import read_integers

            return read_integers(self.numbers, self.step, self.offset, ids, slot)
        rows, step = ids + self.offset[slot], self.step
        if step.dim():
            step = step.index_select(0, rows).float()[:, None]
        return read_rows(self.numbers, rows).float().mul_(step)


class IntegersTable(EmbeddingTable):
    """Base of the tables of integers: a method says what its rows are."""

    kind = "quantised"
    offset: Tensor

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
        sizes = [feature.num_ids for feature in features]
        self.register_buffer("offset", starts(sizes), persistent=False)
        self.rows = self._make_rows(sum(sizes), init_std, make_rows.optimizer)

    @abc.abstractmethod
    def _make_rows(
        self, num_rows: int, init_std: float, optimizer: RowOptimizer | None
    ) -> QuantisedRows | NearestRows:
        """Return the rows; without an optimizer of their own they are :class:`NearestRows`."""

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        return self.rows(ids + self.offset[slot])  # type: ignore[no-any-return]

    def freeze(self) -> FrozenTable:
        """Return integers and steps as they are: with decay in the steps, eval reads the same."""
        return FrozenIntegers(self.rows.served_numbers(), self.rows.served_step(), self.offset)
