"""Losses over 200 steps at seed 0: a refactor may not change the maths unseen.

Every setting is spelled out, so that a better default does not move these numbers. When a change of the
maths is meant, run with ``-k golden -s``, see the new numbers, and say in the commit why they moved.
"""

import pytest
import torch

from slimtab.collection import TableCollection
from slimtab.config import load_config
from slimtab.data.loader import Loader
from slimtab.models.base import build_model
from slimtab.testing import fake_dataset, fake_schema
from slimtab.training.observer import Observer
from slimtab.training.optimizers import fused_rows
from slimtab.training.trainer import Trainer

SCHEMA = fake_schema([10, 3000, 400], numerics=3, multi_hot=[50])
MODELS = {
    "deepfm": {"mlp": [32, 16], "dropout": 0.1},
    "dlrm": {"bottom": [16], "top": [32], "dropout": 0.0},
    "dcn": {"cross": 2, "rank": None, "mlp": [32], "dropout": 0.0},
}
# "model method rows options": (training loss, validation logloss), in nats
GOLDEN = {
    "deepfm full adam {}": (0.5050, 0.5760),
    "deepfm hash adam {'probes': 2}": (0.4814, 0.5823),
    "deepfm unified adam {'probes': 4}": (0.4967, 0.5868),
    "deepfm unified adam {'probes': 2, 'project': True}": (0.4812, 0.5887),
    "deepfm full rowwise_adamax {}": (0.5383, 0.5698),
    "deepfm full rowwise_adagrad {}": (0.3960, 0.5894),
    "dlrm full adam {}": (0.5062, 0.5782),
    "dcn full adam {}": (0.4623, 0.5891),
}


class Losses(Observer):
    """All losses, step by step."""

    def __init__(self):
        self.values = []

    def on_log(self, report):
        self.values.append(report.loss)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    fake_dataset(folder, SCHEMA, {"train": 2000, "valid": 500})
    return folder


CASES = [
    ("deepfm", "full", "adam", "100%", {}),
    ("deepfm", "hash", "adam", "30%", {"probes": 2}),
    ("deepfm", "unified", "adam", "30%", {"probes": 4}),
    ("deepfm", "unified", "adam", "30%", {"probes": 2, "project": True}),
    ("deepfm", "full", "rowwise_adamax", "100%", {}),
    ("deepfm", "full", "rowwise_adagrad", "100%", {}),
    ("dlrm", "full", "adam", "100%", {}),
    ("dcn", "full", "adam", "100%", {}),
]


@pytest.mark.parametrize(("model", "method", "rows", "budget", "options"), CASES)
def test_golden(data, tmp_path, model, method, rows, budget, options):
    """Mean loss of steps 181 … 200, in which rates fall, and the best validation logloss."""
    settings = {
        "table": {"method": method, "budget": budget, "dim": 8, "init_std": 0.05, "options": options},
        "model": {"name": model, "options": MODELS[model]},
        "optimizer": {
            "rows": rows,
            "rows_lr": 0.05 if rows == "rowwise_adagrad" else 0.003,
            "rows_decay": 0.2,
            "lr": 0.0005,
            "weight_decay": 0.01,
        },
        "training": {
            "batch_size": 100,
            "epochs": 10,
            "eval_steps": 20,
            "log_steps": 1,
            "patience": 9,
            "cooldown": 1,
        },
    }
    config = load_config(None, settings)
    losses, train = Losses(), Loader(data, "train", 100, shuffle=True, seed=0)
    torch.manual_seed(0)
    make_rows = fused_rows(config.optimizer, len(train))
    tables = TableCollection.build(SCHEMA.features, 8, method, budget, options, make_rows, 0.05)
    network = build_model(model, tables, 3, config.model.options)
    valid = Loader(data, "valid", 500, shuffle=False)
    metrics = Trainer(network, train, valid, config, tmp_path, [losses]).fit()
    assert len(losses.values) == 200
    found = (sum(losses.values[180:]) / 20, metrics.logloss)
    key = f"{model} {method} {rows} {options}"
    print(f'    "{key}": ({found[0]:.4f}, {found[1]:.4f}),')
    assert found == pytest.approx(GOLDEN[key], abs=1e-3)
