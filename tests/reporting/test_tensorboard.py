"""TensorBoard files, read back with TensorBoard's own reader."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slimtab.config import RunConfig
from slimtab.reporting.tensorboard import TensorBoard, write_outcome
from slimtab.training.metrics import Metrics
from slimtab.training.observer import StepReport

FIGURES = {"norm/dense_gradient": 0.3, "norm/rows_weight": 2.0, "oov/C1": 0.25, "oov/C2": 0.5}
OUTCOME = {
    "full_bytes": 1000,
    "serve_bytes": 100,
    "train_bytes": 300,
    "vocab_bytes": 50,
    "table_stats": {"rows": 7, "ids_per_row": 2.5},
    "rows_per_second": 1234.0,
    "test": {"auc": 0.7, "logloss": 0.5, "calibration": 1.0, "rows": 9},
}


def report(step, loss=None):
    return StepReport(step, 100, step / 50, 1.0 / step if loss is None else loss, 10.0 * step, FIGURES)


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def points(folder, tag):
    return [(event.step, pytest.approx(event.value)) for event in read(folder).Scalars(tag)]


def test_curves(tmp_path):
    """Loss, quality, speed, norms and OOV rates, at their steps."""
    board = TensorBoard(tmp_path)
    board.on_log(report(1))
    board.on_log(report(11))
    board.on_validation(11, Metrics(0.75, 0.5, 1.01, 10), True)
    board.on_end()
    assert points(tmp_path, "loss/train") == [(1, 1.0), (11, 1 / 11)]
    assert points(tmp_path, "speed/rows_per_second") == [(1, 10.0), (11, 110.0)]
    assert points(tmp_path, "valid/auc") == [(11, 0.75)]
    assert points(tmp_path, "valid/logloss") == [(11, 0.5)]
    assert points(tmp_path, "valid/calibration") == [(11, 1.01)]
    for tag, value in FIGURES.items():
        assert points(tmp_path, tag) == [(1, value), (11, value)]


def test_a_resumed_run_continues_its_curves(tmp_path):
    """Steps that a killed sitting wrote and this one repeats appear once."""
    first = TensorBoard(tmp_path)
    for step in (1, 11, 21):
        first.on_log(report(step, 9.0))
    first.on_end()
    second = TensorBoard(tmp_path)
    for step in (11, 21, 31):
        second.on_log(report(step, 1.0))
    second.on_end()
    assert points(tmp_path, "loss/train") == [(1, 9.0), (11, 1.0), (21, 1.0), (31, 1.0)]


def test_outcome(tmp_path):
    """Bytes and table figures, and the hyper-parameter tab with the outcome beside the settings."""
    write_outcome(tmp_path, RunConfig(), OUTCOME, 42)
    assert points(tmp_path, "bytes/serve_bytes") == [(42, 100)]
    assert points(tmp_path, "bytes/full_bytes") == [(42, 1000)]
    assert points(tmp_path, "bytes/train_bytes") == [(42, 300)]
    assert points(tmp_path, "bytes/vocab_bytes") == [(42, 50)]
    assert points(tmp_path, "table/ids_per_row") == [(42, 2.5)]
    assert "_hparams_/session_start_info" in read(tmp_path / "hparams").summary_metadata


def test_a_run_without_a_step_writes_nothing(tmp_path):
    """A finished run that is opened again leaves its files alone."""
    TensorBoard(tmp_path / "tb").on_end()
    assert not (tmp_path / "tb").exists()
