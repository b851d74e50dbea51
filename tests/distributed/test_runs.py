"""Runs by real ranks: the same outcome as one process, from a checkpoint of any number of ranks."""

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from rank_helpers import run_ranks, values

from slimtab.config import build_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.run import train_run
from slimtab.serving.freeze import load_frozen
from slimtab.training.metrics import evaluate
from slimtab.training.observer import Observer
from slimtab.training.trainer import Trainer

TABLES = {
    "full": {"method": "full"},
    "unified": {"method": "unified", "budget": "30%"},
    "cafe": {"method": "cafe", "budget": "30%"},
    "mgqe": {"method": "mgqe", "budget": "30%"},
    "rules": {"method": "full", "budget": "80%", "rules": [{"method": "dpq", "min_ids": 300}]},
}


def settings(data, run, **changes):
    values = {
        "data": str(data),
        "run": str(run),
        "model": {"options": {"mlp": [16]}},
        "table": TABLES["unified"],
        "optimizer": {"rows": "rowwise_adagrad", "rows_lr": 0.01},
        "training": {"batch_size": 161, "epochs": 2, "threads": 1, "log_steps": 1, "checkpoint_steps": 7},
        "ranks": {"shard_from": 0},
    }
    return {key: changes.get(key, value) for key, value in values.items()}


class Losses(Observer):
    """Keeps the loss of each step, and breaks off where told to."""

    def __init__(self, stop=None):
        self.losses, self.stop = [], stop

    def on_log(self, report):
        self.losses.append(report.loss)
        if report.step == self.stop:
            raise RuntimeError("stopped here")


def train(values, stop=None):
    watch = Losses(stop)
    metrics = train_run(build_config(values), [watch])
    return {"metrics": metrics, "losses": watch.losses}


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {
        name: train(settings(prepared.data, folder / name, table=table)) for name, table in TABLES.items()
    }


@pytest.fixture(scope="module")
def pair(prepared, tmp_path_factory):
    """Two ranks' runs."""
    folder = tmp_path_factory.mktemp("pair")
    both = {}
    for name, table in TABLES.items():
        both[name] = values(run_ranks(2, train, settings(prepared.data, folder / name, table=table)))
    return folder, both


@pytest.mark.parametrize("method", TABLES)
def test_two_ranks_train_what_one_process_trains(alone, pair, method):
    """161 rows a step: 80 on one rank, 81 on the other, and fewer in the last of an epoch."""
    leader, other = pair[1][method]
    assert len(leader["losses"]) == 40
    assert leader["losses"] == pytest.approx(alone[method]["losses"], abs=1e-5)
    assert other["losses"] == []
    for split in ("valid", "test"):
        one, two = alone[method]["metrics"][split], leader["metrics"][split]
        assert two["rows"] == one["rows"]
        assert two["auc"] == pytest.approx(one["auc"], abs=5e-4)
        assert two["logloss"] == pytest.approx(one["logloss"], abs=1e-4)


def test_all_ranks_return_what_metrics_json_holds(pair):
    folder, both = pair
    written = json.loads((folder / "unified" / "metrics.json").read_text())
    assert [rank["metrics"] for rank in both["unified"]] == [written, written]
    assert not list(folder.rglob("*.tmp"))


def test_what_is_frozen_scores_as_reported(prepared, pair):
    """The leading rank froze rows of which it held half: each has come from where it stood."""
    folder, both = pair
    model, _ = load_frozen(folder / "unified" / "frozen")
    scored = evaluate(model, Loader(prepared.data, "test", 800, shuffle=False)).to_dict()
    assert scored == pytest.approx(both["unified"][0]["metrics"]["test"], abs=1e-12)


def test_the_run_folder_says_where_rows_stood(pair):
    plan = json.loads((pair[0] / "unified" / "plan.json").read_text())
    assert sorted(plan["owners"].values()) == [0] * 8 + [1] * 8
    assert len(plan["bytes_per_rank"]) == 2


def loaded(values):
    """Digests of what a rank has when it has loaded the newest checkpoint, by name."""
    found = {}

    def look(trainer, trained=False):
        assert trainer._resume()
        tensors = trainer._model_tensors() | trainer.optimizers.tensors()
        for name, value in tensors.items():
            found[name] = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        found["at"] = [trainer.step, trainer.train_rows.state_dict()]
        raise SlimtabError("seen")

    Trainer.fit = look
    with pytest.raises(SlimtabError, match="seen"):
        train_run(build_config(values))
    return found


@pytest.fixture(scope="module")
def stopped(prepared, tmp_path_factory):
    """A run of two ranks that broke off in its second epoch, behind the checkpoint of step 35."""
    run = settings(prepared.data, tmp_path_factory.mktemp("stopped") / "run")
    leader, other = run_ranks(2, train, run, 37)
    assert "stopped here" in leader["error"]
    assert "lost another rank" in other["error"]
    return run


@pytest.fixture(scope="module")
def resumed(stopped, tmp_path_factory):
    """What one rank, two and four find in its checkpoint, and how they end."""
    ends = {}
    for count in (1, 2, 4):
        run = stopped | {"run": str(tmp_path_factory.mktemp("resumed") / str(count))}
        shutil.copytree(stopped["run"], run["run"])
        found = {}
        for rank in values(run_ranks(count, loaded, run)):
            assert all(found.setdefault(name, value) == value for name, value in rank.items()), count
        ends[count] = found, values(run_ranks(count, train, run))[0]["metrics"]
    return ends


@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_ranks_loads_the_same_bits(resumed, count):
    """Weights, accumulators and moments, and the place in the data."""
    found, _ = resumed[count]
    assert found == resumed[2][0]
    assert sum(".block." in name for name in found) == 2 * 16
    assert found["at"][0] == 35


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_resumed_run_ends_as_one_that_was_never_stopped(pair, resumed, count):
    _, metrics = resumed[count]
    never = pair[1]["unified"][0]["metrics"]
    assert metrics["steps"] == never["steps"]
    assert metrics["test"] == pytest.approx(never["test"], abs=1e-4)
    assert metrics["valid"] == pytest.approx(never["valid"], abs=1e-4)


def test_one_process_does_not_go_on_from_the_checkpoints_of_ranks(stopped):
    with pytest.raises(SlimtabError, match="torchrun"):
        train_run(build_config(stopped))


def differing(values, key, there):
    """Rank 1 with another setting."""
    if os.environ["RANK"] == "1":
        values = values | {key: there}
    return train(values)


@pytest.mark.parametrize(("key", "what"), [("seed", "settings"), ("data", "dataset")])
def test_a_rank_that_differs_is_refused_at_the_start(prepared, tmp_path, key, what):
    """Before anything is trained, on every rank, with the name of the one that differs."""
    other = tmp_path / "other"
    shutil.copytree(prepared.data, other)
    plain = json.loads((other / "schema.json").read_text()) | {"sources": ["another.tsv"]}
    (other / "schema.json").write_text(json.dumps(plain))
    there = {"seed": 1, "data": str(other)}[key]
    answers = run_ranks(2, differing, settings(prepared.data, tmp_path / "run"), key, there)
    assert all(f"rank 1 has another {what} than rank 0" in answer["error"] for answer in answers)
    assert not (tmp_path / "run").exists()


def killed_at(values, step):
    """Rank 1 is killed before a step."""
    train_step = Trainer._train_step

    def stepping(trainer, *args):
        if trainer.step == step and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(trainer, *args)

    Trainer._train_step = stepping
    return train(values)


def test_a_killed_rank_ends_the_others_at_once(prepared, tmp_path):
    started = time.monotonic()
    leader, dead = run_ranks(2, killed_at, settings(prepared.data, tmp_path / "run"), 9)
    assert dead == {"error": "killed"}
    assert "lost another rank" in leader["error"]
    assert "--max-restarts" in leader["error"]
    assert time.monotonic() - started < 60  # a busy machine included; what hangs would do so for 30 minutes


def test_the_optimizer_fbgemm_lacks_is_refused(prepared, tmp_path):
    run = settings(prepared.data, tmp_path / "run", optimizer={"rows": "adam"})
    assert all("set optimizer.rows=rowwise_adagrad" in answer["error"] for answer in run_ranks(2, train, run))


def gathered(folder):
    """How much memory of its own the leading rank takes to hold all rows of a store."""
    from torch import distributed

    from slimtab.training.engine.ranks import RankedEngine

    distributed.init_process_group("gloo")
    config = build_config({"optimizer": {"rows": "rowwise_adagrad"}, "ranks": {"shard_from": 0}})
    engine = RankedEngine(config)
    rows = engine.make_rows(config.optimizer, 1)(1_000_000, 16, 0.1)
    model = torch.nn.ModuleDict({"rows": rows})
    engine.spread(model, Path(folder), 26)
    before = own_memory()
    rows.whole(engine.leads, Path(folder))
    taken = own_memory() - before
    return [taken, float(rows.values().std()) if engine.leads else None]


def own_memory():
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_the_rank_that_freezes_holds_little_more_than_its_own_rows(tmp_path):
    """64 MB of rows in blocks of 4 MB: what others hold goes through one block to a file."""
    (taken, spread), _ = values(run_ranks(2, gathered, str(tmp_path)))
    assert spread == pytest.approx(0.1, rel=0.01)
    assert taken < 16e6
