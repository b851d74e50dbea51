"""Ranks on GPUs step as one process on a GPU does.

Two ranks share one GPU here: NCCL refuses that on one machine, so they say that they are on two.
"""

import os

import pytest
import torch
from rank_helpers import run_ranks, values
from test_methods import DRAWING, METHODS, SPREAD, losses_of, settings

from slimtab.config import build_config
from slimtab.errors import SlimtabError
from slimtab.run import train_run
from slimtab.training.device import rank_device, repeatable
from slimtab.training.engine.base import Engine

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def on_machines_of_their_own():
    os.environ.update(
        LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", NCCL_HOSTID=os.environ["RANK"], NCCL_SOCKET_IFNAME="lo"
    )


def ranked(names, spread, folder):
    on_machines_of_their_own()
    from slimtab.training.engine.ranks import RankedEngine
    from slimtab.training.engine.start import _meet

    device = rank_device("cuda")
    _meet(device)
    return {
        name: _losses(RankedEngine(settings(name, spread), device), name, spread, folder) for name in names
    }


def _losses(engine, name, spread, folder):
    try:
        with repeatable(engine.device):
            return losses_of(engine, settings(name, spread), folder)
    except SlimtabError as error:
        return str(error)


@pytest.fixture(scope="module")
def alone():
    return {
        (name, spread): _losses(Engine("cuda"), name, spread, None)
        for name, spread in [*((name, False) for name in METHODS), *((name, True) for name in SPREAD)]
    }


@needs_gpu
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_on_gpus_step_as_one_process_does(alone, ranks, tmp_path):
    together = values(run_ranks(ranks, ranked, METHODS, False, tmp_path))
    spread = values(run_ranks(ranks, ranked, SPREAD, True, tmp_path))
    assert together == [together[0]] * ranks
    assert spread == [spread[0]] * ranks
    for name in METHODS:
        if name in DRAWING:
            assert isinstance(together[0][name], list)
        else:
            assert together[0][name] == pytest.approx(
                alone[name, False], abs=1e-3 if name == "int16" else 1e-5
            )
    for name in SPREAD:
        assert spread[0][name] == pytest.approx(alone[name, True], abs=1e-5), name


@needs_gpu
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_steps_as_processors_do(alone, name):
    if name not in DRAWING:
        here = losses_of(Engine("cpu"), settings(name, False), None)
        assert alone[name, False] == pytest.approx(here, abs=1e-3 if name == "int16" else 1e-4)


def run(data, folder, device):
    if device == "cuda":
        on_machines_of_their_own()
    return train_run(
        build_config(
            {
                "data": data,
                "run": folder,
                "model": {"options": {"mlp": [16]}},
                "optimizer": {"rows": "rowwise_adagrad", "rows_lr": 0.01},
                "training": {"batch_size": 161, "epochs": 2, "device": device},
                "ranks": {"shard_from": 0},
            }
        )
    )["test"]


@needs_gpu
def test_a_run_of_ranks_on_gpus_ends_as_one_on_processors(prepared, tmp_path):
    data = str(prepared.data)
    ranks = values(run_ranks(2, run, data, str(tmp_path / "ranks"), "cuda"))
    single = run(data, str(tmp_path / "single"), "cpu")
    assert ranks[0] == ranks[1]
    assert ranks[0]["auc"] == pytest.approx(single["auc"], abs=5e-4)


def test_more_ranks_than_gpus_are_refused_where_gpus_are_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "3")
    assert rank_device("auto").type == "cpu"
    with pytest.raises(SlimtabError, match="3 ranks share 2 GPU"):
        rank_device("cuda")


def test_ranks_take_no_gpu_by_number():
    with pytest.raises(SlimtabError, match="ranks take a GPU each"):
        rank_device("cuda:1")


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "3")
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "4")
    assert rank_device("auto") == torch.device("cuda", 3)
