"""The optimizers that rows may carry with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


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
