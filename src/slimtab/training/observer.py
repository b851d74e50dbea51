"""What a trainer tells those who watch it: progress bars, TensorBoard, a search that may stop it."""

from __future__ import annotations

from dataclasses import dataclass, field

from slimtab.training.metrics import Metrics


@dataclass(frozen=True)
class StepReport:
    """One logged step.

    Attributes:
        step: steps done.
        total: steps there will be at most.
        epoch: passes over the training rows done, with its fraction.
        loss: loss of the step's batch, in nats.
        rows_per_second: since the previous report.
        figures: further scalars by name (norms, out-of-vocabulary rates); empty unless asked for.
    """

    step: int
    total: int
    epoch: float
    loss: float
    rows_per_second: float
    figures: dict[str, float] = field(default_factory=dict)


class Observer:
    """Watches a training. All methods do nothing; override what is of interest."""

    def on_log(self, report: StepReport) -> None:
        """Called every ``log_steps`` steps."""

    def on_validation(self, step: int, metrics: Metrics, best: bool) -> None:
        """Called after each validation."""

    def on_end(self) -> None:
        """Called when training is over, also when it failed."""
