"""A step function that learns: 0 or 1 on the way in, a long-tailed bump on the way back.

Liu et al., "Dynamic sparse training", ICLR 2020, whose estimator OptEmbed takes: the true derivative is zero
almost everywhere, so a threshold would never move; this one is largest at the step and lives on |u| ≤ 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        near = u.abs()
        # 2 at the step, falling to 0.4 at 0.4, and flat from there to 1.
        slope = torch.where(near <= 0.4, 2 - 4 * near, torch.where(near <= 1, 0.4, 0.0))
        return grads[0] * slope


def step(u: Tensor) -> Tensor:
    """Return 1 where ``u`` is above zero, else 0, in its shape and dtype; gradients pass near zero."""
    stepped: Tensor = _Step.apply(u)  # type: ignore[no-untyped-call]
    return stepped
