"""What rows are: a matrix looked up by number, whatever trains it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from slimtab.tables.rows.optimizer import RowOptimizer


class Rows(nn.Module):
    """A matrix [num_rows, width] float32 that is only ever read by row number."""

    num_rows: int
    width: int

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width] for ``address`` [N] int64."""
        raise NotImplementedError

    def values(self) -> Tensor:
        """Return a copy of all rows [num_rows, width], for freezing and statistics."""
        raise NotImplementedError

    def assign(self, values: Tensor) -> None:
        """Replace all rows by ``values`` [num_rows, width]; an optimizer they carry starts afresh."""
        raise NotImplementedError

    def multiply(self, factors: Tensor) -> None:
        """Multiply each row by its factor [num_rows]: for start values, before anything was learned."""
        raise NotImplementedError

    def copy_rows(self, source: Tensor, target: Tensor) -> None:
        """Copy the rows ``source`` [M] int64 over the rows ``target`` [M], with optimizer state they carry.

        Between a lookup and its step a row that was looked up may be a source but no target.
        """
        raise NotImplementedError

    def take(self, source: Rows, address: Tensor) -> None:
        """Replace all rows by the rows ``address`` [num_rows] of ``source``, which is of this kind and width.

        Where rows carry their optimizer, its state comes with them.
        """
        raise NotImplementedError

    def squared_gradients(self, touches: Tensor) -> Tensor:
        """Return how much the loss feels each row [num_rows]: its squared gradients added up over training.

        That is the diagonal of the empirical Fisher information, averaged over coordinates and known up to
        one factor. Rows without an optimizer of their own know nothing and return ``touches``.

        Args:
            touches: in how many steps each row was touched, about [num_rows].
        """
        return touches.float()

    def train_bytes(self) -> int:
        """Bytes held while training: values, and the optimizer state kept with them."""
        raise NotImplementedError


class SteppedRows(Rows, abc.ABC):
    """Rows that move themselves: :meth:`step` applies what backward has collected since the last one.

    Attributes:
        lr: current learning rate.
    """

    lr: float

    @abc.abstractmethod
    def step(self) -> None:
        """Decay every row, update the touched ones, and forget them."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move rows, but no single numbers to a GPU: steps read those, and would wait for it each time."""
        numbers = {name: b for name, b in self._buffers.items() if b is not None and b.dim() == 0}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, number in numbers.items():
            if getattr(self, name).is_cuda:
                setattr(self, name, number)
        return self

    @abc.abstractmethod
    def _leaves(self) -> list[Tensor]:
        """Return the rows of each lookup since the last step, which collect gradients."""

    def grad_norm(self) -> float | None:
        """Return the L2 norm of the collected gradient; None when no gradient has arrived."""
        grads = [values.grad for values in self._leaves() if values.grad is not None]
        return float(torch.cat(grads).norm()) if grads else None

    def touched_norm(self) -> float:
        """Return the L2 norm of the rows looked up since the last step; 0 when there are none."""
        values = [values.detach() for values in self._leaves()]
        return float(torch.cat(values).norm()) if values else 0.0


class RowsFactory(Protocol):
    """Makes rows.

    Attributes:
        optimizer: the optimizer that rows made here carry with them; None when they are ordinary
            parameters, moved by somebody else.
    """

    @property
    def optimizer(self) -> RowOptimizer | None:
        """See the class."""

    def __call__(self, num_rows: int, width: int, init_std: float) -> Rows:
        """Return rows whose values start normal with standard deviation ``init_std``."""

    def together(self) -> RowsFactory:
        """Return a factory whose rows stand in each process as a whole."""
