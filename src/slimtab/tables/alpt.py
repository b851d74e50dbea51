"""ALPT: integers with a learned step for each row.

Li et al., "Adaptive low-precision training for embeddings in click-through rate prediction", AAAI 2023. The
step moves by the gradient of learned step size quantisation (Esser et al., "Learned step size quantization",
ICLR 2020): a row that strains at the end of its range asks for a wider step, all others for a finer one.

The paper rounds the moved row to the nearest, runs the batch forward and backward a second time, and takes
the step's gradient there. A training step has one backward pass here, so the gradient at hand is used: that
of the row before it moved. Steps are learned in proportion, so they stay positive, and small rows learn as
large ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.parts.integers import IntegersConfig, IntegersTable, NearestRows
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.quantised import QuantisedRows, clip_

_START_RANGE = 8.0  # standard deviations that the range holds at the start, either way
_MOST = 0.5  # a step changes by no more than e^±0.5 at once
_SMALLEST = 2.0**-24  # step: the least that half precision tells from 0
_DTYPES = {8: torch.int8, 16: torch.int16}


@dataclass(frozen=True)
class ALPTConfig(IntegersConfig):
    """Settings of :class:`ALPT`.

    Attributes:
        bits: of each integer, 8 or 16.
        step_lr: how fast steps follow their gradient, relative to their size.
    """

    bits: int = 8
    step_lr: float = 0.02

    def __post_init__(self) -> None:
        if self.bits not in _DTYPES:
            raise SlimtabError(f"alpt has no integers of {self.bits} bits; set bits to 8 or 16")

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the only size there is: for each id, its integers and a step in half precision."""
        return (cls(**options).bits // 8 * dim + 2) * sum(feature.num_ids for feature in features)


def _start_step(init_std: float, dtype: torch.dtype) -> float:
    return max(_START_RANGE * init_std / torch.iinfo(dtype).max, _SMALLEST)


def step_derivative(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Return d(step · round(w / step)) / d step, by element, for ``numbers`` = w / step.

    Inside the range it is what rounding to the nearest adds, outside it is the end of the range.
    """
    limits = torch.iinfo(dtype)
    rounded = clip_(numbers.round(), dtype)
    inside = (numbers >= limits.min) & (numbers <= limits.max)
    return torch.where(inside, rounded - numbers, rounded)


class LearnedStepRows(QuantisedRows):
    """Integers times a step for each row, ``unit`` [num_rows] float32.

    Steps are read in half precision, as they are served. Decay narrows the steps: that rounds nothing, and
    rows that nothing touches keep their digits.
    """

    smallest_scale = 1e-3

    unit: Tensor

    def __init__(
        self,
        num_rows: int,
        width: int,
        init_std: float,
        optimizer: RowOptimizer,
        dtype: torch.dtype,
        step_lr: float,
    ) -> None:
        super().__init__(num_rows, width, optimizer, dtype)
        self.step_lr = step_lr
        self.register_buffer("unit", torch.full((num_rows,), _start_step(init_std, dtype)))
        self._start(init_std)

    def step_of(self, address: Tensor) -> Tensor:
        """Return the step of rows ``address``, [U, 1]."""
        return _served(self.unit[address] * self.scale.float()).float()[:, None]

    def served_step(self) -> Tensor:
        """Return the steps of all rows, half precision [num_rows]."""
        return _served(self.unit * self.scale.float())

    def _store(self, address: Tensor, values: Tensor, slope: Tensor) -> None:
        """Learn the steps, then round the values to them."""
        derivative = step_derivative(values / self.step_of(address), self.numbers.dtype)
        steepness = (slope * derivative).sum(dim=1) * _slope_scale(self.width, self.numbers.dtype)
        factor = (steepness * -self.step_lr).clamp_(-_MOST, _MOST).exp_()
        self.unit.index_copy_(0, address, self.unit[address] * factor)
        self._round(address, values)

    def _fold(self) -> None:
        self.unit *= self.scale.float()


def _served(step: Tensor) -> Tensor:
    """Return steps as they are served: half precision, above 0."""
    return step.clamp(min=_SMALLEST).half()


def _slope_scale(width: int, dtype: torch.dtype) -> float:
    """Return the factor of Esser et al. that makes the slope of a step as large as that of a weight."""
    scale: float = (width * torch.iinfo(dtype).max) ** -0.5
    return scale


class StretchedRows(NearestRows):
    """A float parameter that is read rounded to a learned step of its row, for any torch optimizer.

    The step of a row is ``start`` · e^stretch.
    """

    def __init__(self, num_rows: int, width: int, init_std: float, dtype: torch.dtype) -> None:
        super().__init__(num_rows, width, init_std, dtype)
        self.start = _start_step(init_std, dtype)
        self.stretch = nn.Parameter(torch.zeros(num_rows))

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width]; gradients reach ``weight`` and ``stretch``."""
        values, stretch = F.embedding(address, self.weight), self.stretch[address]
        exact = self.start * stretch.exp()
        step = _served(exact.detach()).float()[:, None]
        numbers = values.detach() / step
        rounded = clip_(numbers.round(), self.dtype) * step
        slope = _slope_scale(self.width, self.dtype) * (exact - exact.detach())[:, None]
        return rounded + (values - values.detach()) + slope * step_derivative(numbers, self.dtype)

    def served_step(self) -> Tensor:
        """Return the steps of all rows, half precision [num_rows]."""
        return _served(self.start * self.stretch.detach().exp())


class ALPT(IntegersTable, method="alpt"):
    """A row of ``dim`` integers for each id, and a step that it has to itself."""

    paper = "Li et al., AAAI 2023"
    Config = ALPTConfig
    config: ALPTConfig

    def _make_rows(
        self, num_rows: int, init_std: float, optimizer: RowOptimizer | None
    ) -> QuantisedRows | NearestRows:
        dtype = _DTYPES[self.config.bits]
        if optimizer is None:
            return StretchedRows(num_rows, self.dim, init_std, dtype)
        return LearnedStepRows(num_rows, self.dim, init_std, optimizer, dtype, self.config.step_lr)

    def search_space(self) -> dict[str, Sequence[Any]]:
        """Return how fast steps may be learned."""
        return {"step_lr": [0.005, 0.02, 0.08]}

    def stats(self) -> dict[str, float]:
        """Return the mean step, and the share of values at an end of their range."""
        limits, numbers = torch.iinfo(_DTYPES[self.config.bits]), self.rows.served_numbers()
        clipped = (numbers == limits.min) | (numbers == limits.max)
        return {
            "mean_step": float(self.rows.served_step().float().mean()),
            "clipped": float(clipped.float().mean()),
        }
