"""Rows packed with their optimizer: a step reads and writes only the rows it touches.

Weight, momentum and variance of a row lie side by side, so each touched row costs one random read and one
random write however large the table is. That keeps up with fbgemm's fused CPU kernels
(benchmarks/results/train.md), which offer no Adam on CPU.

Weight decay reaches *every* row at *every* step, as the dense rule w ← (1 − lr·λ)·w does (Loshchilov &
Hutter, "Decoupled weight decay regularization", ICLR 2019), at no cost per row: the table stores w divided by
one scalar, and decaying the table means multiplying that scalar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.tables.parts.distinct import distinct
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.rows.base import Rows, RowsFactory, SteppedRows
from slimtab.tables.rows.optimizer import RowOptimizer

# Below this the scale is folded back into the rows: one pass over the table every few hundred to many
# thousand steps, long before float32 runs out of range.
SMALLEST_SCALE = 1e-3


@dataclass
class Touched:
    """The rows of one lookup, held until the optimizer step."""

    address: Tensor  # [U] distinct row numbers
    packed: Tensor  # [U, width + state], as stored
    values: Tensor  # [U, width], the leaf that collects the gradient


class FusedRows(SteppedRows):
    """Rows packed with their optimizer state; :meth:`step` applies what backward collected.

    The buffer ``packed`` [num_rows, width + state] holds weight / scale, then the optimizer state;
    ``scale`` is the decay all rows share; ``steps`` counts steps. All three are in ``state_dict``.
    """

    packed: Tensor
    scale: Tensor
    steps: Tensor

    def __init__(self, num_rows: int, width: int, init_std: float, optimizer: RowOptimizer) -> None:
        super().__init__()
        self.num_rows, self.width, self.optimizer = num_rows, width, optimizer
        self.lr = optimizer.lr
        packed = torch.zeros(num_rows, width + optimizer.state_width(width))
        packed[:, :width] = torch.empty(num_rows, width).normal_(0.0, init_std)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._touched: list[Touched] = []

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width]; while gradients are on, remember them for :meth:`step`."""
        if not torch.is_grad_enabled():
            return F.embedding(address, self.packed[:, : self.width]) * self.scale.float()
        rows = distinct(address)
        packed = read_rows(self.packed, rows.values)
        values = (packed[:, : self.width] * self.scale.float()).requires_grad_()
        self._touched.append(Touched(rows.values, packed, values))
        return rows.expand(values)

    def values(self) -> Tensor:
        """Return a copy of all rows."""
        return self.packed[:, : self.width] * self.scale.float()

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Replace all rows and forget their moments; steps already counted stay counted."""
        self.packed.zero_()
        self.packed[:, : self.width] = values
        self.scale.fill_(1.0)
        self._touched.clear()

    @torch.no_grad()
    def multiply(self, factors: Tensor) -> None:
        """Multiply each row by its factor."""
        self.packed[:, : self.width].mul_(factors[:, None])

    @torch.no_grad()
    def take(self, source: Rows, address: Tensor) -> None:
        """Replace all rows, their moments, and what all rows share."""
        assert isinstance(source, FusedRows)
        self.packed.copy_(source.packed[address])
        self.scale.copy_(source.scale)
        self.steps.copy_(source.steps)
        self._touched.clear()

    @torch.no_grad()
    def copy_rows(self, source: Tensor, target: Tensor) -> None:
        """Copy rows with their moments."""
        self.packed[target] = self.packed[source]

    def squared_gradients(self, touches: Tensor) -> Tensor:
        """Return each row's squared gradients [num_rows], read off the optimizer's second moment."""
        state = self.packed[:, self.width :]
        if self.optimizer.kind == "rowwise_adagrad":
            return state[:, 0].clone()
        if self.optimizer.kind == "rowwise_adamax":  # their size is known, and how often they came
            return state[:, 0].square() * touches
        # Adam keeps a running mean over the row's own steps; its share of the start value 0 is divided out.
        steps = touches.float().clamp(max=float(self.steps)).clamp(min=1)
        return state[:, self.width :].mean(dim=1) * steps / (1 - self.optimizer.betas[1] ** steps)

    def train_bytes(self) -> int:
        """Bytes of weights and optimizer state."""
        return 4 * self.packed.numel()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget rows touched since the last step."""
        super().zero_grad(set_to_none)
        self._touched.clear()

    def _leaves(self) -> list[Tensor]:
        return [touched.values for touched in self._touched]

    @torch.no_grad()
    def step(self) -> None:
        """Decay every row, update the touched ones, and forget them."""
        touched = self._collected()
        self.steps += 1
        keep = 1.0 - self.lr * self.optimizer.weight_decay
        self.scale *= keep
        if touched is not None:
            values, grad = touched.values.detach().mul_(keep), touched.values.grad
            assert grad is not None
            self._update(values, grad, touched.packed[:, self.width :])
            touched.packed[:, : self.width] = values.div_(self.scale.float())
            self.packed.index_copy_(0, touched.address, touched.packed)
        self._touched.clear()
        if self.scale < SMALLEST_SCALE:
            self.packed[:, : self.width] *= self.scale.float()
            self.scale.fill_(1.0)

    def _collected(self) -> Touched | None:
        """Return the rows that gradients have reached since the last step, each once; None for none."""
        trained = [touched for touched in self._touched if touched.values.grad is not None]
        if not trained:
            return None
        return trained[0] if len(trained) == 1 else self._merged(trained)

    def _merged(self, parts: list[Touched]) -> Touched:
        """Return several lookups as one; a row that was in more than one has the sum of its gradients."""
        unique, inverse = torch.unique(torch.cat([part.address for part in parts]), return_inverse=True)
        source = torch.empty_like(unique)  # where each row stands among the parts: in any that has it
        source[inverse] = torch.arange(len(inverse), device=inverse.device)
        values = torch.cat([part.values.detach() for part in parts]).index_select(0, source)
        packed = torch.cat([part.packed for part in parts]).index_select(0, source)
        grads = [part.values.grad for part in parts if part.values.grad is not None]
        values.grad = torch.zeros_like(values).index_add_(0, inverse, torch.cat(grads))
        return Touched(unique, packed, values)

    def _update(self, values: Tensor, grad: Tensor, state: Tensor) -> None:
        """Move ``values`` [U, width] and ``state`` in place by one step of the optimizer."""
        if self.optimizer.kind == "adam":
            eps, (beta1, beta2) = self.optimizer.eps, self.optimizer.betas
            mean, square = state[:, : self.width], state[:, self.width :]
            mean.lerp_(grad, 1 - beta1)
            square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            t = int(self.steps)
            # lr · m̂ / (√v̂ + eps), with both bias corrections folded into two scalars.
            root = (1 - beta2**t) ** 0.5
            # A root of strided rows does not vectorise: ten times the time of a copy and a root.
            denominator = square.clone(memory_format=torch.contiguous_format).sqrt_().add_(eps * root)
            values.addcdiv_(mean, denominator, value=-self.lr * root / (1 - beta1**t))
        else:
            slope = self.optimizer.slope(grad, state[:, 0])
            values.add_(slope, alpha=-self.lr * self.optimizer.reach(int(self.steps)))


@dataclass(frozen=True)
class FusedRowsFactory:
    """Makes :class:`FusedRows` with one optimizer.

    Attributes:
        optimizer: fused into all rows made.
    """

    optimizer: RowOptimizer

    def __call__(self, num_rows: int, width: int, init_std: float) -> FusedRows:
        """Return rows of ``width`` floats."""
        return FusedRows(num_rows, width, init_std, self.optimizer)

    def together(self) -> RowsFactory:
        """Return itself: its rows stand in one process."""
        return self
