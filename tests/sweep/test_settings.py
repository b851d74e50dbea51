"""A sweep's file: typed, and a mistake is one line that says what to do."""

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from slimtab.errors import SlimtabError
from slimtab.sweep.settings import read_sweep

SPACE = {"table.method": ["hash", "qr"]}


def written(folder, **values):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"data": "d", "space": SPACE, **values}))
    return path


def test_lists_and_ranges(tmp_path):
    space = {
        "table.budget": ["50%", 4000],
        "table.dim": {"low": 4, "high": 32, "step": 4},
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "table.rules": [[], [{"method": "qr", "min_ids": 100}]],
    }
    config = read_sweep(written(tmp_path, space=space))
    found = config.distributions()
    assert found["table.dim"] == IntDistribution(4, 32, step=4)
    assert found["optimizer.lr"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert found["table.budget"] == CategoricalDistribution(["50%", 4000])
    label = found["table.rules"].choices[1]  # a study takes plain values alone
    run = config.run_config({"table.rules": label, "table.dim": 8}, "r")
    assert (run.table.rules[0].method, run.table.rules[0].min_ids, run.table.dim) == ("qr", 100, 8)
    assert (run.data, run.run, run.seed) == ("d", "r", 0)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"data": ""}, "'data' is missing"),
        ({"space": {}}, "nothing to vary"),
        ({"trials": 0}, "at least 1"),
        ({"objectives": ["recall"]}, "no objective 'recall'"),
        ({"objectives": ["bytes"]}, "takes logloss or auc"),
        ({"objectives": ["auc", "auc"]}, "takes logloss or auc"),
        ({"space": {"seed": [1, 2]}}, "set by the sweep itself"),
        ({"settings": {"table.method": "qr"}}, "in space and in settings"),
        ({"space": {"optimizer.lrr": [0.1]}}, "lr"),
        ({"space": {"table.dim": ["wide"]}}, "dim"),
        ({"space": {"table.dim": 8}}, "must be a list of values, or a range"),
        ({"space": {"table.dim": {"low": 4}}}, "must be a list of values, or a range"),
        ({"space": {"optimizer.lr": {"low": 2.0, "high": 1.0}}}, "space of 'optimizer.lr'"),
        ({"tirals": 3}, "trials"),
    ],
)
def test_mistakes(tmp_path, values, why):
    with pytest.raises(SlimtabError, match=r"sweep\.yaml: ") as caught:
        read_sweep(written(tmp_path, **values))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
