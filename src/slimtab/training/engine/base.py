"""One process, and what every engine offers the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from slimtab.batch import Batch
from slimtab.config import OptimizerSettings
from slimtab.data.loader import WHOLE, Loader, Share
from slimtab.errors import SlimtabError
from slimtab.files import locked
from slimtab.models.base import CTRModel
from slimtab.tables.rows.base import RowsFactory
from slimtab.training.checkpoint import (
    latest_checkpoint,
    latest_folder,
    read_metadata,
    read_tensors,
    save_checkpoint,
    write_tensors,
)
from slimtab.training.device import pick_device
from slimtab.training.metrics import Metrics, predict, score
from slimtab.training.optimizers import fused_rows
from slimtab.training.stepping import collect_gradients

Outcome = TypeVar("Outcome")


class Engine:
    """Trains in this process alone. Engines over ranks override what ranks must do together.

    Attributes:
        leads: whether this process shows progress and writes what is not spread over the ranks.
        share: which part of each batch it trains on.
        device: where its model stands while it is trained.
    """

    leads: bool = True
    share: Share = WHOLE

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Train on ``device``; see :func:`~slimtab.training.device.pick_device`."""
        self.device = pick_device(device) if isinstance(device, str) else device

    @property
    def place(self) -> Callable[[Batch], Batch] | None:
        """What brings a batch to where it is trained on; None where it is made there."""
        return None if self.device.type == "cpu" else lambda batch: batch.to(self.device)

    def make_rows(self, optimizer: OptimizerSettings, steps_per_epoch: int) -> RowsFactory:
        """Return what makes the rows of tables; see :func:`~slimtab.training.optimizers.fused_rows`."""
        return fused_rows(optimizer, steps_per_epoch)

    def begin(self, model: CTRModel, folder: Path) -> None:
        """Take a new model over before it is trained in the run folder ``folder``."""

    def lead(self, act: Callable[[], Outcome]) -> Outcome:
        """Let the leading process do something, and return in all of them the plain values it returned.

        Raises:
            SlimtabError: in all of them, when it raised one.
        """
        return act()

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Keep other trainings out of a run folder; see :func:`~slimtab.files.locked`."""
        with locked(folder):
            yield

    def collect(self, model: CTRModel, batch: Batch, check: Callable[[float], None]) -> float:
        """Collect the gradients of a step's whole batch and return its loss.

        Args:
            model: in training mode.
            batch: this process's share.
            check: looks at the loss before any weight has moved.
        """
        return collect_gradients(model, batch, check)

    def evaluate(
        self, model: CTRModel, rows: Loader, check: Callable[[float], None] = lambda _: None
    ) -> Metrics:
        """Score all rows of a split; ``check`` looks at the sum of their probabilities first."""
        label, probability = predict(model, rows)
        check(float(probability.sum()))
        return score(label, probability)

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write tensors and plain values at ``path``, which has no suffix, whole or not at all."""
        write_tensors(_file(path), tensors, metadata)

    def read(self, path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that :meth:`write` wrote.

        Args:
            path: as given there.
            own: what this process holds under those names: of rows over ranks, its part.
        """
        return read_tensors(_file(path))[0]

    def save(
        self, folder: Path, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> None:
        """Write the checkpoint of a step and drop all but the newest few."""
        save_checkpoint(folder, step, tensors, metadata)

    def newest(self, folder: Path) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint, for :meth:`read`, and its plain values; None for none.

        Raises:
            SlimtabError: when the run was begun by another kind of engine.
        """
        if latest_folder(folder) is not None:
            raise SlimtabError(
                f"{folder} holds checkpoints of ranks; go on with `torchrun --nproc-per-node 1`, or more"
            )
        path = latest_checkpoint(folder)
        return None if path is None else (path.with_suffix(""), read_metadata(path))

    def whole(self, model: CTRModel, folder: Path) -> None:
        """Let the leading process read all rows of a model, from files in ``folder`` where they are many."""


def _file(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")
