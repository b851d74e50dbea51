"""A progress bar on the terminal; nothing where there is none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from slimtab.training.metrics import Metrics
from slimtab.training.observer import Observer, StepReport

if TYPE_CHECKING:
    from typing import Never


class ProgressBar(Observer):
    """Shows steps, loss and rows per second, and a line for each validation."""

    def __init__(self) -> None:
        self._bar: tqdm[Never] | None = None

    def _at(self, step: int, total: int | None) -> tqdm[Never]:
        if self._bar is None:
            hidden = not sys.stderr.isatty()
            self._bar = tqdm(total=total, unit="step", delay=2, disable=hidden, dynamic_ncols=True)
        self._bar.update(step - self._bar.n)
        return self._bar

    def on_log(self, report: StepReport) -> None:
        """Move the bar."""
        bar = self._at(report.step, report.total)
        bar.set_postfix_str(f"loss {report.loss:.4f}, {report.rows_per_second:,.0f} rows/s")

    def on_validation(self, step: int, metrics: Metrics, best: bool) -> None:
        """Print the validation's figures above the bar."""
        mark = "  best" if best else ""
        quality = (
            f"AUC {metrics.auc:.4f}, logloss {metrics.logloss:.4f}, calibration {metrics.calibration:.3f}"
        )
        tqdm.write(f"step {step}: valid {quality}{mark}", file=sys.stderr)

    def on_end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
