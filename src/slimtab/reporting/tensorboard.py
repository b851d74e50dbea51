"""TensorBoard: loss, quality, speed, bytes and health of a run, and its hyper-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from slimtab.config import RunConfig, flat
from slimtab.reporting.features import feature_table
from slimtab.reporting.layout import layout
from slimtab.tables.base import EmbeddingTable
from slimtab.training.metrics import Metrics
from slimtab.training.observer import Observer, StepReport

_ONCE = ("ids", "bytes", "collisions")  # of each feature; points and no curves, so the text shows them better


class TensorBoard(Observer):
    """Writes what a trainer reports under ``folder``.

    Args:
        folder: where event files go; a resumed run continues its curves.
        table: whose figures are written at each validation; none by default.
    """

    def __init__(self, folder: Path, table: EmbeddingTable | None = None) -> None:
        self._folder, self._table = folder, table
        self._charted: set[str] = set()
        self._writer: SummaryWriter | None = None

    def _open(self, step: int) -> SummaryWriter:
        if self._writer is None:
            # Points after ``step`` were written by a killed sitting that this one repeats.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
            self._writer.add_custom_scalars(layout())
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
        """Write validation metrics, and the table's figures."""
        writer = self._open(step)
        for name in ("auc", "logloss", "calibration"):
            writer.add_scalar(f"valid/{name}", getattr(metrics, name), step)
        if self._table is None:
            return
        figures, by_feature = self._table.stats(), self._table.stats_by_feature()
        if not self._charted >= {*figures, *by_feature}:  # each stage of a method may have others
            self._charted |= {*figures, *by_feature}
            writer.add_custom_scalars(layout(figures, by_feature))
        for name, value in figures.items():
            writer.add_scalar(f"table/{name}", value, step)
        for name, values in by_feature.items():
            for feature, value in values.items():
                writer.add_scalar(f"feature_{name}/{feature}", value, step)

    def on_end(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def write_outcome(folder: Path, config: RunConfig, metrics: dict[str, Any], step: int) -> None:
    """Write a run's bytes, its figures by feature, and its settings beside its outcome.

    Settings are named as in ``config.yaml``. Which there are is not written: TensorBoard then gathers them
    from all runs it sees, and shows those first in which they differ.
    """
    settings = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in {"seed": config.seed, **flat(metrics["settings"])}.items()
    }
    outcome = {
        "outcome/auc_test": metrics["test"]["auc"],
        "outcome/logloss_test": metrics["test"]["logloss"],
        "outcome/serve_bytes": metrics["serve_bytes"],
        "outcome/share_of_full": metrics["serve_bytes"] / metrics["full_bytes"],
        "outcome/rows_per_second": metrics["rows_per_second"],
    }
    with SummaryWriter(str(folder)) as writer:
        for name in ("full_bytes", "serve_bytes", "train_bytes", "vocab_bytes"):
            writer.add_scalar(f"bytes/{name}", metrics[name], step)
        for name, value in metrics["table_stats"].items():
            writer.add_scalar(f"table/{name}", value, step)
        for feature, figures in metrics["features"].items():
            for name, value in figures.items():
                if name != "ids":
                    writer.add_scalar(f"feature_{name}/{feature}", value, step)
        by_feature = dict.fromkeys(name for figures in metrics["features"].values() for name in figures)
        curves = [name for name in by_feature if name not in _ONCE]
        writer.add_custom_scalars(layout(metrics["table_stats"], curves))
        writer.add_text("features", feature_table(metrics["features"]), step)
    _, start, end = hparams(settings, outcome)
    # A folder of its own: the columns of the tab are the scalars that stand beside the settings.
    with SummaryWriter(str(folder / "hparams")) as writer:
        for summary in (start, end):
            writer.file_writer.add_summary(summary)
        for name, value in outcome.items():
            writer.add_scalar(name, value, step)
