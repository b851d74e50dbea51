"""The progress bar: on standard error, and nothing but lines where that is no terminal."""

from slimtab.reporting.progress import ProgressBar
from slimtab.training.metrics import Metrics
from slimtab.training.observer import StepReport


def test_no_bar_where_there_is_no_terminal(capsys):
    """Logs of a cluster job: a line per validation, no carriage returns, nothing on standard output."""
    bar = ProgressBar()
    for step in range(1, 50):
        bar.on_log(StepReport(step, 50, 0.1, 0.6, 1000.0))
    bar.on_validation(50, Metrics(0.75, 0.5, 1.01, 10), True)
    bar.on_validation(60, Metrics(0.74, 0.6, 1.01, 10), False)
    bar.on_end()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "step 50: valid AUC 0.7500, logloss 0.5000, calibration 1.010  best",
        "step 60: valid AUC 0.7400, logloss 0.6000, calibration 1.010",
    ]


def test_ending_before_the_first_step(capsys):
    """A run that fails at once still closes its observers."""
    ProgressBar().on_end()
    assert capsys.readouterr().err == ""
