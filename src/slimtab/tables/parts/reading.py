"""Rows read fast on CPU: `F.embedding` copies each with a call of its own, at about 10 ns a row.

Rows of floats wider than 16 bytes are read as sums of one row, for which torch has kernels of every width.
Narrower rows *are* elements, of 4, 8 or 16 bytes, and elements cost 1 ns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab import kernels

# Only the size matters: nothing is ever computed in these types.
_ELEMENTS = {4: torch.int32, 8: torch.int64, 16: torch.complex128}


def translates_to_onnx() -> bool:
    """Tell whether a lookup is recorded for ONNX, which has no views and no bags."""
    return torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


def read_rows(matrix: Tensor, address: Tensor) -> Tensor:
    """Return rows [N, w] of a contiguous ``matrix`` [M, w] at ``address`` [N] int32 or int64.

    Gradients reach a matrix that asks for them, at the usual price.
    """
    # Compilers and exporters know it by its name.
    if torch.compiler.is_compiling() or (matrix.requires_grad and torch.is_grad_enabled()):
        return F.embedding(address, matrix)
    if matrix.is_floating_point() and kernels.ready(matrix, address):
        from slimtab.kernels import windows as compiled

        return compiled.read_rows(matrix, address)
    element = _ELEMENTS.get(matrix.shape[1] * matrix.element_size())
    if element is not None:
        # Of one dimension `index_select` takes a third of the time of `take`.
        return matrix.view(element).view(-1).index_select(0, address)[:, None].view(matrix.dtype)
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu":
        return F.embedding(address, matrix)
    bags = torch.arange(len(address), dtype=address.dtype)
    return F.embedding_bag(address, matrix, bags, mode="sum")


def sum_rows(matrix: Tensor, address: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return sums [N, w] of rows of ``matrix`` [M, w] at ``address`` [N, k], each times its weight [N, k]."""
    if translates_to_onnx():  # where a bag would become a loop
        rows = F.embedding(address, matrix)
        return (rows if weights is None else rows * weights[:, :, None]).sum(dim=1)
    return F.embedding_bag(address, matrix, per_sample_weights=weights, mode="sum")


def join_rows(parts: Sequence[Tensor]) -> Tensor:
    """Return contiguous ``parts`` [N, w] of one width side by side, [N, parts · w]; no gradient."""
    element = _ELEMENTS.get(parts[0].shape[1] * parts[0].element_size())
    if element is None or torch.compiler.is_compiling():
        return torch.cat(list(parts), dim=1)
    return torch.stack([part.view(element).squeeze(1) for part in parts], dim=1).view(parts[0].dtype)
