"""On a GPU: each method trains there as it does on processors, is stopped there, and goes on there."""

import pytest
import torch

from slimtab.config import build_config
from slimtab.errors import SlimtabError
from slimtab.run import train_run
from slimtab.schema import Schema
from slimtab.tables.base import get_method, methods
from slimtab.training.device import pick_device
from slimtab.training.observer import Observer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
# A GPU draws in a way of its own, and the last bits of a sum may tip a choice.
DRAWN = ("alpt", "autodim", "cafe", "int16", "int8", "nested", "optembed", "optembed-d", "rq")


class StopAt(Observer):
    """Stops a training at a step, as Ctrl-C would."""

    def __init__(self, step):
        self.step = step

    def on_log(self, report):
        if report.step >= self.step:
            raise KeyboardInterrupt


def config(prepared, run, method, device, **training):
    features = Schema.load(prepared.data / "schema.json").features
    full = 4 * 8 * sum(feature.num_ids for feature in features)
    budget = max(full // 2, get_method(method).Config.smallest_bytes(features, 8))
    return build_config(
        {
            "data": str(prepared.data),
            "run": str(run),
            "model": {"options": {"mlp": [16], "dropout": 0.1}},
            "table": {"method": method, "budget": budget, "dim": 8},
            "optimizer": {"rows_lr": 0.01},
            "training": {"batch_size": 256, "epochs": 2, "log_steps": 5, "device": device, **training},
        }
    )


@needs_gpu
@pytest.mark.parametrize("method", sorted(methods()))
def test_a_gpu_trains_every_method_as_processors_do(prepared, tmp_path, method):
    here, there = (
        train_run(config(prepared, tmp_path / device, method, device)) for device in ("cpu", "cuda")
    )
    assert there["device"] == torch.cuda.get_device_name()
    assert there["peak_device_bytes"] > 0
    assert there["serve_bytes"] == pytest.approx(here["serve_bytes"], rel=0.02 if method in DRAWN else 0)
    assert there["test"]["auc"] == pytest.approx(here["test"]["auc"], abs=0.02 if method in DRAWN else 0.002)


@needs_gpu
@pytest.mark.parametrize("method", sorted(methods()))
def test_a_seed_decides_what_a_gpu_learns(prepared, tmp_path, method):
    one, other = (train_run(config(prepared, tmp_path / run, method, "cuda")) for run in ("one", "other"))
    assert one["test"] == other["test"]


@needs_gpu
def test_a_killed_training_goes_on_where_it_stopped(prepared, tmp_path):
    broken, whole = (
        config(prepared, tmp_path / run, "full", "cuda", checkpoint_steps=3) for run in ("broken", "whole")
    )
    with pytest.raises(KeyboardInterrupt):
        train_run(broken, [StopAt(15)])
    resumed, unbroken = train_run(broken), train_run(whole)
    assert resumed["steps"] == unbroken["steps"]
    assert resumed["test"] == unbroken["test"]


@pytest.mark.parametrize("wanted", ["gpu", "meta", "cuda:x", ""])
def test_a_device_that_does_not_exist_is_named(wanted):
    with pytest.raises(SlimtabError, match="give auto, cpu, cuda"):
        pick_device(wanted)


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(SlimtabError, match="set it to cpu or auto"):
        pick_device("cuda:63")


def test_auto_takes_a_gpu_where_there_is_one():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
