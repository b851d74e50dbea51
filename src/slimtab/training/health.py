"""Signs that training is well: norms, out-of-vocabulary rates, and parts that receive no gradient."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from slimtab.batch import Batch
from slimtab.models.base import CTRModel
from slimtab.tables.rows.base import SteppedRows


@torch.no_grad()
def health_figures(model: CTRModel, batch: Batch) -> dict[str, float]:
    """Return norms of gradients and weights, and the share of out-of-vocabulary ids by feature.

    Call it between backward and the optimizer step. Rows' weight norms are over the rows just touched:
    the whole table is never read.
    """
    dense = [parameter for parameter in model.parameters() if parameter.grad is not None]
    figures = {
        "norm/dense_gradient": _norm([p.grad for p in dense if p.grad is not None]),
        "norm/dense_weight": _norm([p.detach() for p in dense]),
    }
    if stepped := _stepped(model).values():
        figures["norm/rows_gradient"] = math.hypot(*(rows.grad_norm() or 0.0 for rows in stepped))
        figures["norm/rows_weight"] = math.hypot(*(rows.touched_norm() for rows in stepped))
    for key, rate in zip(batch.keys, (batch.ids == 0).float().mean(dim=0).tolist(), strict=True):
        figures[f"oov/{key}"] = rate
    if batch.ragged is not None:
        cells = torch.split(batch.ragged.values, batch.ragged.lengths.sum(dim=1).tolist())
        for key, ids in zip(batch.ragged.keys, cells, strict=True):
            if len(ids):
                figures[f"oov/{key}"] = float((ids == 0).float().mean())
    return figures


def warn_untrained(model: CTRModel) -> None:
    """Warn of each parameter or table that the first backward pass brought no gradient."""
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    silent += [name for name, rows in _stepped(model).items() if rows.grad_norm() is None]
    for name in silent:
        warnings.warn(f"'{name}' gets no gradient: nothing the loss depends on reads it", stacklevel=2)


def _stepped(model: CTRModel) -> dict[str, SteppedRows]:
    return {name: module for name, module in model.named_modules() if isinstance(module, SteppedRows)}


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors)) if tensors else 0.0
