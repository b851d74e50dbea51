"""Rows of small integers, trained without a float copy of the table.

Stochastic rounding: Gupta et al., "Deep learning with limited numerical precision", ICML 2015. A step reads
the rows of the batch as floats, moves them, and rounds them back up or down at random, with a mean that is
the float itself. Rounding to the nearest would lose every move below half a step, which is most of them. Each
element draws its own noise, and rows outside the batch are not rounded.

The optimizer keeps one float per row: two moments per coordinate, as Adam has them, would be eight times the
integers. So ``adam`` means ``rowwise_adamax`` here, and the first move of a row is as long under both.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.tables.parts.distinct import distinct
from slimtab.tables.rows.base import SteppedRows
from slimtab.tables.rows.optimizer import RowOptimizer

CHUNK = 1 << 16  # rows held as floats at a time, wherever a pass over the whole table is needed


def round_stochastically(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats up or down, each with the chance that keeps its mean; clip at the range of ``dtype``."""
    return clip_((numbers + torch.rand_like(numbers)).floor_(), dtype).to(dtype)


def clip_(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Clip floats in place at the range of the integers ``dtype``, and return them."""
    limits = torch.iinfo(dtype)
    return numbers.clamp_(limits.min, limits.max)


class QuantisedRows(SteppedRows, abc.ABC):
    """Integers [num_rows, width] times a step; :meth:`step` applies what backward collected.

    Decay costs nothing per row, as in :class:`~slimtab.tables.rows.fused.FusedRows`: all values are
    multiplied by ``scale``, which falls, until :meth:`_fold` works it into the table and sets it to 1. A
    subclass says what the step is, and how it changes.

    Attributes:
        smallest_scale: below this the scale is folded in.
        gather: brings what every process gives, where several share the steps; all draw the same noise then.
    """

    smallest_scale: ClassVar[float]

    numbers: Tensor
    size: Tensor
    scale: Tensor
    steps: Tensor

    def __init__(self, num_rows: int, width: int, optimizer: RowOptimizer, dtype: torch.dtype) -> None:
        super().__init__()
        if optimizer.kind == "adam":
            optimizer = replace(optimizer, kind="rowwise_adamax")
        self.num_rows, self.width, self.optimizer, self.lr = num_rows, width, optimizer, optimizer.lr
        self.register_buffer("numbers", torch.zeros(num_rows, width, dtype=dtype))
        self.register_buffer("size", torch.zeros(num_rows))  # of a row's gradients, for the optimizer
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.gather: Callable[[Tensor], list[Tensor]] | None = None
        self._touched: list[tuple[Tensor, Tensor]] = []  # distinct row numbers [U], values [U, width]

    @abc.abstractmethod
    def step_of(self, address: Tensor) -> Tensor:
        """Return the step of rows ``address`` [U], float32, to be broadcast against [U, width]."""

    @abc.abstractmethod
    def served_step(self) -> Tensor:
        """Return the step or steps as they are served."""

    @abc.abstractmethod
    def _store(self, address: Tensor, values: Tensor, slope: Tensor) -> None:
        """Write ``values`` [U, width] back as integers; ``slope`` [U, width] is gradient over size."""

    @abc.abstractmethod
    def _fold(self) -> None:
        """Multiply the table by ``scale``; the caller sets that to 1."""

    def read(self, address: Tensor) -> Tensor:
        """Return rows [N, width] as floats."""
        return F.embedding(address, self.numbers).float().mul_(self.step_of(address))

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width]; while gradients are on, remember them for :meth:`step`."""
        if not torch.is_grad_enabled():
            return self.read(address)
        rows = distinct(address)
        values = self.read(rows.values).requires_grad_()
        self._touched.append((rows.values, values))
        return rows.expand(values)

    def served_numbers(self) -> Tensor:
        """Return a copy of the integers [num_rows, width]."""
        return self.numbers.clone()

    def values(self) -> Tensor:
        """Return a copy of all rows as floats: more memory than the table itself."""
        return self.read(torch.arange(self.num_rows, device=self.numbers.device))

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Replace all rows, rounded at random, and forget the sizes of their gradients."""
        self.size.zero_()
        self._touched.clear()
        for address in self._chunks():
            self._round(address, values[address])

    def _start(self, init_std: float) -> None:
        """Give rows normal values, never holding all of them as floats."""
        if self.numbers.is_meta:
            return
        for address in self._chunks():
            values = torch.empty(len(address), self.width, device=address.device)
            self._round(address, values.normal_(0.0, init_std))

    def _chunks(self) -> Iterator[Tensor]:
        for start in range(0, self.num_rows, CHUNK):
            yield torch.arange(start, min(start + CHUNK, self.num_rows), device=self.numbers.device)

    def _round(self, address: Tensor, values: Tensor) -> None:
        numbers = round_stochastically(values / self.step_of(address), self.numbers.dtype)
        self.numbers.index_copy_(0, address, numbers)

    def train_bytes(self) -> int:
        """Bytes of the integers and of what is kept per row."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget rows touched since the last step."""
        super().zero_grad(set_to_none)
        self._touched.clear()

    def _leaves(self) -> list[Tensor]:
        return [values for _, values in self._touched]

    @torch.no_grad()
    def step(self) -> None:
        """Decay every row, update the touched ones and round them, and forget them."""
        self.steps += 1
        keep = 1.0 - self.lr * self.optimizer.weight_decay
        address, values, grad = self._collected()
        self._touched.clear()
        if len(address):
            size = self.size[address]
            slope = self.optimizer.slope(grad, size)
            self.size.index_copy_(0, address, size)
            self.scale *= keep
            move = self.lr * self.optimizer.reach(int(self.steps)) * slope
            self._store(address, values * keep - move, slope)
        else:
            self.scale *= keep
        if self.scale < self.smallest_scale:
            self._fold()
            self.scale.fill_(1.0)

    def _collected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, values and gradients; a row of several lookups has the sum of its gradients."""
        touched = [
            (address, values, values.grad) for address, values in self._touched if values.grad is not None
        ]
        if len(touched) == 1 and self.gather is None:
            address, values, grad = touched[0]
            return address, values.detach(), grad
        addresses = torch.cat(
            [self.size.new_empty(0, dtype=torch.int64), *(address for address, _, _ in touched)]
        )
        grads = torch.cat([self.size.new_empty(0, self.width), *(grad for _, _, grad in touched)])
        if self.gather is not None:
            addresses, grads = torch.cat(self.gather(addresses)), torch.cat(self.gather(grads))
        address, inverse = torch.unique(addresses, return_inverse=True)
        return (
            address,
            self.read(address),
            grads.new_zeros(len(address), self.width).index_add_(0, inverse, grads),
        )
