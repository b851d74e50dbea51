"""int8 and int16: integers times one fixed step, from the first training step to serving.

The INT8/INT16 methods of Zhang et al., "Experimental analysis of large-scale learnable vector storage
compression", VLDB 2024; low-precision training of embeddings: Xu et al., "Agile and accurate CTR prediction
model training for massive-scale online advertising systems", SIGMOD 2021.

Training itself needs a quarter (int16: half) of the float values, and one float of optimizer state per row,
where rows carry their optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.parts.integers import IntegersConfig, IntegersTable, NearestRows
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.quantised import CHUNK, QuantisedRows, clip_, round_stochastically


@dataclass(frozen=True)
class FixedPointConfig(IntegersConfig):
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


class RoundedRows(NearestRows):
    """A float parameter that is read rounded to the nearest step; gradients pass straight through."""

    def __init__(self, num_rows: int, width: int, init_std: float, dtype: torch.dtype, unit: float) -> None:
        super().__init__(num_rows, width, init_std, dtype)
        self.unit = unit

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width]; gradients reach ``weight``."""
        values, step = F.embedding(address, self.weight), self.served_step()
        rounded = clip_((values.detach() / step).round_(), self.dtype) * step
        return rounded + (values - values.detach())

    def served_step(self) -> Tensor:
        """Return the step, a float32 scalar."""
        return torch.tensor(self.unit, device=self.weight.device)


class FixedPoint(IntegersTable):
    """Base of the methods that differ in their integers only."""

    paper = "Zhang et al., VLDB 2024; Xu et al., SIGMOD 2021"
    config: FixedPointConfig

    def _make_rows(
        self, num_rows: int, init_std: float, optimizer: RowOptimizer | None
    ) -> QuantisedRows | NearestRows:
        dtype, step = self.config.dtype, self.config.step
        if optimizer is None:
            return RoundedRows(num_rows, self.dim, init_std, dtype, step)
        return FixedPointRows(num_rows, self.dim, init_std, optimizer, dtype, step)

    def search_space(self) -> dict[str, Sequence[Any]]:
        """Return steps worth trying: coarser for a wider range, finer for small moves."""
        return {"step": [factor * type(self.config)().step for factor in (0.5, 1.0, 2.0)]}


class Int8(FixedPoint, method="int8"):
    """One byte per coordinate."""

    Config = Int8Config


class Int16(FixedPoint, method="int16"):
    """Two bytes per coordinate."""

    Config = Int16Config
