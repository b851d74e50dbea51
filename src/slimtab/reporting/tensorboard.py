"""TensorBoard: loss, quality, speed, bytes and health of a run, and its hyper-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from slimtab.config import RunConfig
from slimtab.training.metrics import Metrics
from slimtab.training.observer import Observer, StepReport

# One board per question: is it good, is it small, is it fast, is it well.
_LAYOUT = {
    "slimtab": {
        "logloss": ["Multiline", ["loss/train", "valid/logloss"]],
        "AUC": ["Multiline", ["valid/auc"]],
        "bytes": ["Multiline", ["bytes/.*"]],
        "speed": ["Multiline", ["speed/rows_per_second"]],
        "out of vocabulary": ["Multiline", ["oov/.*"]],
        "norms": ["Multiline", ["norm/.*"]],
    }
}


class TensorBoard(Observer):
    """Writes what a trainer reports under ``folder``.

    Args:
        folder: where event files go; a resumed run continues its curves.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def _open(self, step: int) -> SummaryWriter:
        if self._writer is None:
            # Points after ``step`` were written by a killed sitting that this one repeats.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
            self._writer.add_custom_scalars(_LAYOUT)
        return self._writer

    def on_log(self, report: StepReport) -> None:
        """Write the step's loss, speed and health."""
        writer = self._open(report.step)
        writer.add_scalar("loss/train", report.loss, report.step)
        if report.rows_per_second:
            writer.add_scalar("speed/rows_per_second", report.rows_per_second, report.step)
        for name, value in report.figures.items():
            writer.add_scalar(name, value, report.step)

    def on_validation(self, step: int, metrics: Metrics, best: bool) -> None:
        """Write validation metrics."""
        writer = self._open(step)
        for name in ("auc", "logloss", "calibration"):
            writer.add_scalar(f"valid/{name}", getattr(metrics, name), step)

    def on_end(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def write_outcome(folder: Path, config: RunConfig, metrics: dict[str, Any], step: int) -> None:
    """Write a run's bytes, and its settings beside its outcome for the hyper-parameter tab."""
    settings = {
        "model": config.model.name,
        "method": config.table.method,
        "budget": str(config.table.budget or "full"),
        "dim": config.table.dim,
        "rows_lr": config.optimizer.rows_lr,
        "rows_decay": config.optimizer.rows_decay,
        "lr": config.optimizer.lr,
        "batch_size": config.training.batch_size,
        "seed": config.seed,
    }
    outcome = {
        "test/auc": metrics["test"]["auc"],
        "test/logloss": metrics["test"]["logloss"],
        "outcome/serve_bytes": metrics["serve_bytes"],
        "outcome/rows_per_second": metrics["rows_per_second"],
    }
    with SummaryWriter(str(folder)) as writer:
        for name in ("full_bytes", "serve_bytes", "train_bytes", "vocab_bytes"):
            writer.add_scalar(f"bytes/{name}", metrics[name], step)
        for name, value in metrics["table_stats"].items():
            writer.add_scalar(f"table/{name}", value, step)
        writer.add_hparams(settings, outcome, run_name="hparams")
