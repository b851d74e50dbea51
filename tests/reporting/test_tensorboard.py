"""TensorBoard files, read back with TensorBoard's own reader."""

import json
import re

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

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
    "settings": {"table": {"method": "qr", "budget": None, "dim": 8}, "training": {"epochs": 3}},
    "features": {"C1": {"ids": 9, "bytes": 60, "collisions": 0.5, "width": 4}, "C2": {"ids": 5, "bytes": 40}},
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
    assert points(tmp_path, "feature_bytes/C2") == [(42, 40)]
    assert points(tmp_path, "feature_collisions/C1") == [(42, 0.5)]
    (text,) = read(tmp_path).Tensors("features/text_summary")
    assert "|C1|9|60 B|0.5|4|" in text.tensor_proto.string_val[0].decode()


def test_the_hyper_parameter_tab(tmp_path):
    """Settings by their names in config.yaml; no list of them, which would be one run's for all runs."""
    write_outcome(tmp_path, RunConfig(seed=3), OUTCOME, 42)
    metadata = read(tmp_path / "hparams").summary_metadata
    assert "_hparams_/experiment" not in metadata
    start = HParamsPluginData.FromString(
        metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info
    assert start.hparams["table.method"].string_value == "qr"
    assert start.hparams["table.budget"].string_value == "None"
    assert start.hparams["training.epochs"].number_value == 3
    assert start.hparams["seed"].number_value == 3
    assert points(tmp_path / "hparams", "outcome/share_of_full") == [(42, 0.1)]


def charts(folder):
    """What the custom scalars tab shows: category → title → tags."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = base_plugin.TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder)))
    found = CustomScalarsPlugin(context).layout_impl(RequestContext(), "")
    return {
        category["title"]: {chart["title"]: list(chart["multiline"]["tag"]) for chart in category["chart"]}
        for category in json.loads(found)["category"]
    }


class Table:
    """A table in its stages: first it has a threshold, then widths."""

    figures, widths = {"mean_threshold": 0.5}, {}

    def stats(self):
        return self.figures

    def stats_by_feature(self):
        return {"width": self.widths} if self.widths else {}


def test_figures_of_the_table_at_each_validation(tmp_path):
    """And a chart for each, as soon as there is one; the tab shows the last layout."""
    table = Table()
    board = TensorBoard(tmp_path, table)
    board.on_log(report(1))
    board.on_validation(11, Metrics(0.75, 0.5, 1.01, 10), True)
    table.figures, table.widths = {"rows_kept": 0.2}, {"C1": 4, "C2": 16}
    board.on_validation(21, Metrics(0.75, 0.5, 1.01, 10), True)
    board.on_end()
    assert points(tmp_path, "table/mean_threshold") == [(11, 0.5)]
    assert points(tmp_path, "table/rows_kept") == [(21, 0.2)]
    assert points(tmp_path, "feature_width/C2") == [(21, 16)]
    shown = charts(tmp_path)
    assert [*shown] == ["quality", "bytes", "speed", "health", "figures of the method"]
    assert shown["figures of the method"] == {
        "width by feature": ["feature_width/.*"],
        "rows kept": ["table/rows_kept$"],
    }


def test_every_chart_has_something_to_show(tmp_path):
    """A pattern that no tag fits is an empty chart."""
    board = TensorBoard(tmp_path, Table())
    board.on_log(report(11))
    board.on_validation(11, Metrics(0.75, 0.5, 1.01, 10), True)
    board.on_end()
    write_outcome(tmp_path, RunConfig(), OUTCOME, 42)
    tags = read(tmp_path).Tags()["scalars"]
    for category in charts(tmp_path).values():
        for title, patterns in category.items():
            for pattern in patterns:
                assert any(re.match(pattern, tag) for tag in tags), title


def test_a_run_without_a_step_writes_nothing(tmp_path):
    """A finished run that is opened again leaves its files alone."""
    TensorBoard(tmp_path / "tb").on_end()
    assert not (tmp_path / "tb").exists()
