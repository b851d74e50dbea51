"""int8 and int16: integers times one fixed step, from the first training step to serving.

The INT8/INT16 methods of Zhang et al., "Experimental analysis of large-scale learnable vector storage
compression", VLDB 2024; low-precision training of embeddings: Xu et al., "Agile and accurate CTR prediction
model training for massive-scale online advertising systems", SIGMOD 2021.

Training itself needs a quarter (int16: half) of the float values, and one float of optimizer state per row.
That takes rows that carry their optimizer; when another optimizer moves them they are a float parameter,
rounded as it is read, and only serving is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.quantised_rows import CHUNK, QuantisedRows, round_stochastically
from slimtab.tables.rows import PlainRows, RowOptimizer, RowsFactory


@dataclass(frozen=True)
class FixedPointConfig(TableConfig):
    """Settings of :class:`Int8` and :class:`Int16`.

    Attributes:
        step: difference between neighbouring values at the start. Decay narrows it, down to half; then every
            value is rounded to the wide step again. The range is ±128 (int16: ±32768) steps.
    """

    dtype: ClassVar[torch.dtype]

    step: float = 0.0

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise SlimtabError(f"a step of {self.step} holds no values; set step above 0")

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the only size there is: the integers and the step."""
        return cls.dtype.itemsize * dim * sum(feature.num_ids for feature in features) + 4

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> FixedPointConfig:
        return cls(**options)


@dataclass(frozen=True)
class Int8Config(FixedPointConfig):
    """Settings of :class:`Int8`: between foldings of decay the range goes from ±1.8 to ±0.9."""

    dtype = torch.int8

    step: float = 0.014


@dataclass(frozen=True)
class Int16Config(FixedPointConfig):
    """Settings of :class:`Int16`: between foldings of decay the range goes from ±4.6 to ±2.3."""

    dtype = torch.int16

    step: float = 0.00014


class FixedPointRows(QuantisedRows):
    """Integers times one step. Half of it is as narrow as decay may make it, for the range narrows too."""

    smallest_scale = 0.5

    def __init__(
        self,
        num_rows: int,
        width: int,
        init_std: float,
        optimizer: RowOptimizer,
        dtype: torch.dtype,
        unit: float,
    ) -> None:
        super().__init__(num_rows, width, optimizer, dtype)
        self.unit = unit
        self._start(init_std)

    def step_of(self, address: Tensor) -> Tensor:
        """Return the step of all rows, a scalar."""
        return self.served_step()

    def served_step(self) -> Tensor:
        """Return the step, a float32 scalar."""
        return (self.scale * self.unit).float()

    def _store(self, address: Tensor, values: Tensor, slope: Tensor) -> None:
        self._round(address, values)

    def _fold(self) -> None:
        for chunk in torch.split(self.numbers, CHUNK):
            chunk.copy_(round_stochastically(chunk * self.scale.float(), chunk.dtype))


class RoundedRows(PlainRows):
    """A float parameter that is read rounded to the nearest step; gradients pass straight through."""

    def __init__(self, num_rows: int, width: int, init_std: float, dtype: torch.dtype, unit: float) -> None:
        super().__init__(num_rows, width, init_std)
        self.dtype, self.unit = dtype, unit

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width]; gradients reach ``weight``."""
        values = F.embedding(address, self.weight)
        rounded = self._round(values.detach()).float() * self.served_step()
        return rounded + (values - values.detach())

    def values(self) -> Tensor:
        """Return all rows as they are read."""
        return self.served_numbers().float() * self.served_step()

    def served_step(self) -> Tensor:
        """Return the step, a float32 scalar."""
        return torch.tensor(self.unit, device=self.weight.device)

    def served_numbers(self) -> Tensor:
        """Return all rows as integers [num_rows, width]."""
        return self._round(self.weight.detach())

    def _round(self, values: Tensor) -> Tensor:
        limits = torch.iinfo(self.dtype)
        return (values / self.unit).round_().clamp_(limits.min, limits.max).to(self.dtype)


class FrozenFixedPoint(FrozenTable):
    """Integers and their step."""

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
        return F.embedding(ids + self.offset[slot], self.numbers).float().mul_(self.step)


class FixedPoint(EmbeddingTable):
    """Base of the tables of integers: one row of ``dim`` integers for each id."""

    kind = "quantised"
    paper = "Zhang et al., VLDB 2024; Xu et al., SIGMOD 2021"
    config: FixedPointConfig
    offset: Tensor

    def __init__(
        self,
        config: FixedPointConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        sizes = [feature.num_ids for feature in features]
        self.register_buffer("offset", torch.tensor([0, *accumulate(sizes)][:-1]), persistent=False)
        ids, optimizer = sum(sizes), make_rows.optimizer
        self.rows: FixedPointRows | RoundedRows
        if optimizer is None:
            self.rows = RoundedRows(ids, dim, init_std, config.dtype, config.step)
        else:
            self.rows = FixedPointRows(ids, dim, init_std, optimizer, config.dtype, config.step)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        return self.rows(ids + self.offset[slot])  # type: ignore[no-any-return]

    def freeze(self) -> FrozenTable:
        """Return the integers as they are: with decay in the step, eval reads the same."""
        return FrozenFixedPoint(self.rows.served_numbers(), self.rows.served_step(), self.offset)

    def search_space(self) -> dict[str, Sequence[Any]]:
        """Return steps worth trying: coarser for a wider range, finer for small moves."""
        return {"step": [factor * type(self.config)().step for factor in (0.5, 1.0, 2.0)]}


class Int8(FixedPoint, method="int8"):
    """One byte per coordinate."""

    Config = Int8Config


class Int16(FixedPoint, method="int16"):
    """Two bytes per coordinate."""

    Config = Int16Config
