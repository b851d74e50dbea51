"""Where vectors live: a matrix of rows, looked up by number, trained plainly or with a fused optimizer.

`PlainRows` holds an ordinary parameter: any torch optimizer trains it, and it slots into code that knows
nothing of slimtab. `FusedRows` is the fast path: a step reads and writes only the rows it touches, and
weight, momentum and variance of a row lie side by side, so each touched row costs one random read and one
random write however large the table is. That keeps up with fbgemm's fused CPU kernels
(benchmarks/results/train.md), which offer no Adam on CPU.

Weight decay in `FusedRows` reaches *every* row at *every* step, as the dense rule w ← (1 − lr·λ)·w does
(Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019), at no cost per row: the table
stores w divided by one scalar, and decaying the table means multiplying that scalar.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.tables.parts.distinct import distinct
from slimtab.tables.parts.reading import read_rows

# Below this the scale is folded back into the rows: one pass over the table every few hundred to many
# thousand steps, long before float32 runs out of range.
SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class RowOptimizer:
    """The optimizer fused into a table's rows.

    Attributes:
        kind: ``adam`` (Kingma & Ba, ICLR 2015; moments move only when a row is touched),
            ``rowwise_adamax`` (§7.1 of that paper for a row as a whole, without momentum: a gradient is
            divided by the row's largest recent one) or ``rowwise_adagrad`` (one accumulator per row, as DLRM
            uses).
        lr: learning rate.
        weight_decay: decoupled decay λ; every row loses the share lr·λ at each step.
        betas: Adam's decay rates.
        eps: added to the denominator.
    """

    kind: Literal["rowwise_adamax", "adam", "rowwise_adagrad"] = "rowwise_adamax"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def state_width(self, width: int) -> int:
        """Optimizer floats kept beside each row of ``width`` floats."""
        return 2 * width if self.kind == "adam" else 1

    def slope(self, grad: Tensor, state: Tensor) -> Tensor:
        """Return gradients [U, width] over their size by row, which row-wise rules keep in ``state`` [U]."""
        square = grad.square().mean(dim=1)
        if self.kind == "rowwise_adagrad":
            size = state.add_(square).sqrt()
        else:
            size = torch.maximum(state.mul_(self.betas[1]), square.sqrt(), out=state)
        return grad / (size + self.eps)[:, None]

    def reach(self, step: int) -> float:
        """Return how far, in learning rates, a slope of 1 moves a row at ``step``, 1 or more."""
        if self.kind == "rowwise_adagrad":
            return 1.0
        # Adam's first move of a row at this step: m̂ / √v̂ from nothing, in units of its gradient.
        (beta1, beta2), t = self.betas, step
        first: float = (1 - beta1) / (1 - beta1**t) * ((1 - beta2**t) / (1 - beta2)) ** 0.5
        return first


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
