"""One handle on everything that moves weights: AdamW for dense parameters, fused optimizers for rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from slimtab.config import OptimizerSettings
from slimtab.errors import SlimtabError
from slimtab.tables.base import EmbeddingTable
from slimtab.tables.rows.base import SteppedRows
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer


def fused_rows(settings: OptimizerSettings, steps_per_epoch: int = 1) -> FusedRowsFactory:
    """Return a factory of rows that carry their optimizer with them.

    Args:
        settings: ``rows``, ``rows_lr`` and ``rows_decay`` matter here.
        steps_per_epoch: over which an epoch's decay is spread.

    Raises:
        SlimtabError: when an epoch has no steps.
    """
    if steps_per_epoch < 1:
        raise SlimtabError("there are no rows to train on; prepare the dataset with a larger share of them")
    # 1 − lr·λ of each step is e^(−decay / steps), which stays above zero however few the steps are.
    decay = -math.expm1(-settings.rows_decay / steps_per_epoch) / settings.rows_lr
    return FusedRowsFactory(RowOptimizer(settings.rows, settings.rows_lr, decay))


class Optimizers:
    """Steps dense parameters and fused rows together.

    Args:
        model: :class:`SteppedRows` step themselves; all parameters go to AdamW, those that a table says
            are :meth:`~slimtab.tables.base.EmbeddingTable.row_like` with the rows' learning rate and their
            share of the rows' decay, and but for those that they hand to SGD. SGD's learning rates stay
            what the tables say.
        settings: learning rates and decay.
        steps_per_epoch: over which an epoch's decay is spread.
    """

    def __init__(self, model: nn.Module, settings: OptimizerSettings, steps_per_epoch: int = 1) -> None:
        self.rows = {
            name: module for name, module in model.named_modules() if isinstance(module, SteppedRows)
        }
        tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
        row_like = {parameter: factors for table in tables for parameter, factors in table.row_like()}
        by_sgd = {parameter: lr for table in tables for parameter, lr in table.by_sgd()}
        by_validation = {parameter: lr for table in tables for parameter, lr in table.by_validation()}
        network = [p for p in model.parameters() if not (p in row_like or p in by_sgd or p in by_validation)]
        groups: list[dict[str, Any]] = [
            {
                "params": network,
                "lr": settings.lr,
                "weight_decay": settings.weight_decay,
                "rows": False,
            },
        ]
        for factors in sorted({*row_like.values()}):
            share = replace(settings, rows_decay=settings.rows_decay / factors)
            rule = fused_rows(share, steps_per_epoch).optimizer
            groups.append(
                {
                    "params": [p for p in model.parameters() if row_like.get(p) == factors],
                    "lr": rule.lr,
                    "weight_decay": rule.weight_decay,
                    "rows": True,
                }
            )
        self.dense = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
        self.plain, self.on_validation = _sgd(by_sgd), _sgd(by_validation)
        self._network_lr, self._rows_lr = settings.lr, settings.rows_lr
        self.use(1.0)  # rows that outlive a stage must not keep the rate it ended with

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in (self.dense, self.plain, self.on_validation):
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)
        for rows in self.rows.values():
            rows.zero_grad()

    def step(self) -> None:
        """Apply all gradients."""
        self.dense.step()
        if self.plain is not None:
            self.plain.step()
        for rows in self.rows.values():
            rows.step()

    def step_on_validation(self) -> None:
        """Apply the gradients of what learns from validation rows, and forget all others."""
        if self.on_validation is not None:
            self.on_validation.step()
        self.zero_grad()

    def scale_lr(self, network: float, rows: float) -> None:
        """Multiply the learning rate of the network, and that of rows and what stands for them."""
        self._network_lr *= network
        self._rows_lr *= rows
        self.use(1.0)

    def use(self, scale: float) -> None:
        """Let the next step have ``scale`` times the learning rates.

        To be called before its rows are looked up, which is when fbgemm takes their rate.
        """
        for group in self.dense.param_groups:
            group["lr"] = scale * (self._rows_lr if group["rows"] else self._network_lr)
        for stepped in self.rows.values():
            stepped.lr = scale * self._rows_lr

    def tensors(self) -> dict[str, Tensor]:
        """Return AdamW's state by ``index.name``. The rows' own state is in the model's ``state_dict``."""
        state: dict[int, dict[str, Tensor]] = self.dense.state_dict()["state"]
        return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`tensors` returned."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        self.dense.load_state_dict({**self.dense.state_dict(), "state": state})


def train_bytes(model: nn.Module) -> int:
    """Bytes held while training: parameters with AdamW's moments, rows with their state, indices."""
    dense = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    stepped = [module for module in model.modules() if isinstance(module, SteppedRows)]
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    own = {buffer for rows in stepped for buffer in rows.buffers()}
    indices = {buffer for table in tables for buffer in table.buffers()} - own
    return (
        3 * dense
        + sum(rows.train_bytes() for rows in stepped)
        + sum(buffer.numel() * buffer.element_size() for buffer in indices)
    )


def _sgd(rates: Mapping[nn.Parameter, float]) -> torch.optim.SGD | None:
    """Return plain SGD, which has no state, over parameters with their learning rates."""
    groups = [{"params": [parameter], "lr": lr} for parameter, lr in rates.items()]
    return torch.optim.SGD(groups, lr=0.0) if groups else None
