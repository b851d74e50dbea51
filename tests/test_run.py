"""A run from settings to frozen tables, in one sitting or in many, in real processes."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from slimtab.config import build_config, load_config
from slimtab.data.loader import Loader
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.errors import SlimtabError
from slimtab.run import train_run
from slimtab.schema import Schema
from slimtab.serving.freeze import load_frozen
from slimtab.tables.rows.fused import FusedRows
from slimtab.training.checkpoint import latest_checkpoint
from slimtab.training.metrics import evaluate

# What a clock, a machine or a path decides.
INCIDENTAL = (
    "run",
    "wall_seconds",
    "rows_per_second",
    "checkpoint_bytes",
    "peak_memory_bytes",
    "peak_device_bytes",
    "lookup",
)


def settings(data, run, /, **changes):
    """Small settings; ``changes`` by dotted key with __ for the dot."""
    values = {
        "data": str(data),
        "run": str(run),
        "model": {"name": "deepfm", "options": {"mlp": [16], "dropout": 0.2}},
        "table": {"method": "unified", "budget": "20%", "dim": 8},
        "training": {"batch_size": 200, "epochs": 2, "threads": 1, "log_steps": 5},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        group = values
        for parent in parents:
            group = group.setdefault(parent, {})
        group[last] = value
    return values


def train(data, run, **changes):
    return train_run(build_config(settings(data, run, **changes)))


def outcome(metrics):
    return {key: value for key, value in metrics.items() if key not in INCIDENTAL}


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """A finished run: its folder, and what train_run returned."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(prepared.data, folder)


def test_metrics_json(prepared, finished):
    """Other tools read these keys (design §5)."""
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert set(metrics) >= {
        "method", "model", "dim", "seed", "budget_bytes", "full_bytes", "train_bytes", "serve_bytes",
        "vocab_bytes", "valid", "test", "epochs", "rows_per_second", "wall_seconds", "data", "versions",
    }  # fmt: skip
    assert set(metrics["valid"]) == set(metrics["test"]) >= {"auc", "logloss"}
    assert metrics["full_bytes"] == prepared.schema.full_bytes(8)
    assert metrics["serve_bytes"] <= metrics["budget_bytes"] == int(0.2 * metrics["full_bytes"] + 1e-6)
    assert metrics["data"]["fingerprint"] == prepared.schema.fingerprint()
    assert (metrics["valid"]["rows"], metrics["test"]["rows"]) == (400, 400)
    assert metrics["epochs"] == 2
    assert list(metrics["features"]) == [feature.name for feature in prepared.schema.features]
    assert sum(figures["bytes"] for figures in metrics["features"].values()) == metrics["serve_bytes"]


def test_it_learns(prepared, tmp_path):
    """The rows carry a planted signal; labels or columns out of step anywhere on the way would hide it."""
    faster = {"rows_lr": 0.01, "lr": 0.01}
    metrics = train(prepared.data, tmp_path / "run", optimizer=faster, training__epochs=6)
    assert metrics["valid"]["auc"] > 0.65
    assert metrics["test"]["auc"] > 0.55


def test_the_run_folder(finished):
    """Design §5, and no half-written file left over."""
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "metrics.json", "tb", "checkpoints", "frozen",
    }  # fmt: skip
    assert {path.name for path in (folder / "frozen").iterdir()} >= {
        "tables.safetensors", "dense.safetensors", "encoder", "model.json",
    }  # fmt: skip
    assert {path.name for path in (folder / "tb").iterdir()} >= {"projector_config.pbtxt", "hparams"}
    assert not list(folder.rglob("*.tmp"))


def test_the_claimed_bytes_are_on_disk(finished):
    """The figure in metrics.json is the file's payload, and the file is hardly larger."""
    folder, metrics = finished
    path = folder / "frozen" / "tables.safetensors"
    payload = sum(t.numel() * t.element_size() for t in load_file(path).values())
    assert payload == metrics["serve_bytes"]
    assert path.stat().st_size <= 1.02 * metrics["serve_bytes"] + 64 * 1024
    assert json.loads((folder / "frozen" / "model.json").read_text())["serve_bytes"] == payload


def test_the_frozen_model_scores_as_reported(prepared, finished):
    """What is shipped is what was measured: the test metrics to the last bit."""
    folder, metrics = finished
    model, _ = load_frozen(folder / "frozen")
    rows = Loader(prepared.data, "test", 800, shuffle=False)
    assert evaluate(model, rows).to_dict() == metrics["test"]


def test_a_finished_run_returns_at_once(prepared, finished):
    """The same command again neither trains nor touches a file."""
    folder, metrics = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    started = time.monotonic()
    assert train(prepared.data, folder) == metrics
    assert time.monotonic() - started < 1.0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_config_yaml_repeats_the_run(finished, tmp_path):
    """`slimtab train --config runs/a/config.yaml --run runs/b` is the same run."""
    folder, metrics = finished
    again = train_run(load_config(folder / "config.yaml", {"run": str(tmp_path / "again")}))
    assert outcome(again) == outcome(metrics)
    one, two = (path / "frozen" / "tables.safetensors" for path in (folder, tmp_path / "again"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table__method": "hash"}, "table.method=unified, not hash"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"model__options": {"mlp": [17], "dropout": 0.2}}, r"model.options.mlp=\[16\], not \[17\]"),
        ({"table__options": {"probes": 2}}, "table.options.probes=None, not 2"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(prepared, finished, changes, message):
    """Continuing a run with other settings would be neither of the two; one line names the difference."""
    with pytest.raises(SlimtabError, match=message) as caught:
        train(prepared.data, finished[0], **changes)
    assert "choose another --run" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_may_be_corrected_before_anything_was_trained(prepared, tmp_path):
    """A mistyped method must not lock the folder it failed in."""
    for wrong in ({"table__method": "unifed"}, {"table__budget": "3"}, {"model__options": {"mpl": [3]}}):
        with pytest.raises(SlimtabError):
            train(prepared.data, tmp_path / "run", **wrong)
    assert train(prepared.data, tmp_path / "run", training__epochs=1)["epochs"] == 1


def test_other_data_in_the_same_folder_is_refused(prepared, finished, tmp_path):
    """The dataset was prepared again, differently, under the run's feet."""
    data = tmp_path / "data"
    prepare(prepared.raw, data, PrepOptions("criteo", min_count=3), progress=False)
    with pytest.raises(SlimtabError, match="has changed since"):
        train(data, finished[0])


def test_a_moved_dataset_is_the_same_dataset(prepared, finished, tmp_path):
    """Folders are compared by what they hold, not by where they lie."""
    (tmp_path / "elsewhere").symlink_to(prepared.data)
    assert train(tmp_path / "elsewhere", finished[0]) == finished[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "no dataset folder given"),
        ({"run": ""}, "no run folder given"),
        ({"data": "/nowhere"}, "no dataset at /nowhere"),
        ({"table__method": "full", "table__budget": "10%"}, "full cannot fit"),
        ({"model__name": "deepfn"}, "did you mean 'deepfm'"),
    ],
)
def test_wrong_settings_are_one_line(prepared, tmp_path, changes, message):
    """Before any training."""
    with pytest.raises(SlimtabError, match=message):
        train_run(build_config(settings(prepared.data, tmp_path / "run", **changes)))


@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.9, 0.1, 0.0)])
def test_splits_without_rows_are_one_line(prepared, tmp_path, shares):
    """A dataset prepared for something else."""
    options = PrepOptions("criteo", train=shares[0], valid=shares[1], test=shares[2])
    prepare(prepared.raw, tmp_path / "data", options, progress=False)
    with pytest.raises(SlimtabError, match="no rows"):
        train(tmp_path / "data", tmp_path / "run")


def test_hashed_ids_train_and_serve(prepared, tmp_path):
    """--ids hash: no vocabulary anywhere, and its bytes are zero."""
    prepare(prepared.raw, tmp_path / "data", PrepOptions("criteo", ids="hash"), progress=False)
    metrics = train(tmp_path / "data", tmp_path / "run", training__epochs=1)
    assert metrics["vocab_bytes"] == 0
    assert not (tmp_path / "run" / "frozen" / "encoder" / "vocab").exists()
    model, _ = load_frozen(tmp_path / "run" / "frozen")
    rows = Loader(tmp_path / "data", "test", 800, shuffle=False)
    assert evaluate(model, rows).to_dict() == metrics["test"]
    with pytest.raises(SlimtabError, match="has hashed ids"):
        train(tmp_path / "data", tmp_path / "full", table__method="full", table__budget=None)


@pytest.mark.parametrize("model", ["dlrm", "dcn"])
@pytest.mark.parametrize("method", ["full", "hash"])
def test_every_model_and_method_runs_through(prepared, tmp_path, model, method):
    """Train, freeze, load, score: nothing is special about the pair tested most."""
    changes = {"table__budget": None if method == "full" else "30%", "table__method": method}
    metrics = train(
        prepared.data, tmp_path / "run", model__name=model, model__options={}, training__epochs=1, **changes
    )
    loaded, _ = load_frozen(tmp_path / "run" / "frozen")
    rows = Loader(prepared.data, "test", 800, shuffle=False)
    assert evaluate(loaded, rows).to_dict() == metrics["test"]


def command(data, run, *more):
    arguments = [
        "train", str(data), "--run", str(run), "--method", "unified", "--budget", "20%", "--dim", "8",
        "model.options={mlp: [16], dropout: 0.2}", "training.batch_size=40", "training.epochs=3",
        "training.threads=1", "training.checkpoint_steps=7", "training.eval_steps=50",
        "training.patience=9", "training.log_steps=5", *more,
    ]  # fmt: skip
    return [sys.executable, "-m", "slimtab", *arguments]


def newest_step(run):
    path = latest_checkpoint(run / "checkpoints")
    return int(path.name.split("-")[1].split(".")[0]) if path else 0


def kill_after(arguments, run, step, delay):
    """Start the command, and kill -9 it ``delay`` seconds after its checkpoint of ``step`` or a later one."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while newest_step(run) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


@pytest.mark.slow
def test_killed_anywhere_it_ends_as_if_it_had_not_been(prepared, tmp_path):
    """Issue 2: kill -9 at random steps, restart; metrics and frozen tables equal to the bit.

    Real processes: nothing survives but what is on disk. 240 steps, a checkpoint every 7.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(prepared.data, whole), check=True, capture_output=True, env=environment)
    chance = random.Random()
    steps = sorted(chance.sample(range(1, 200), 2))
    codes = [
        kill_after(command(prepared.data, parts), parts, step, chance.uniform(0, 0.05)) for step in steps
    ]
    assert codes == [-9, -9], f"the kills at {steps} came too late: {codes}"
    assert not (parts / "metrics.json").exists()
    subprocess.run(command(prepared.data, parts), check=True, capture_output=True, env=environment)

    one, two = (json.loads((run / "metrics.json").read_text()) for run in (whole, parts))
    assert outcome(one) == outcome(two), f"killed at {steps}"
    for name in ("tables.safetensors", "dense.safetensors"):
        assert (whole / "frozen" / name).read_bytes() == (parts / "frozen" / name).read_bytes(), name
    assert not list(parts.rglob("*.tmp"))


def test_killed_while_freezing_it_freezes_again(prepared, finished, tmp_path):
    """Everything after the last step is done anew when metrics.json is not there."""
    import shutil

    folder, metrics = finished
    copied = tmp_path / "run"
    shutil.copytree(folder, copied)
    (copied / "metrics.json").unlink()
    (copied / "frozen" / "tables.safetensors").unlink()
    (copied / "frozen").rename(copied / "frozen.tmp")
    again = train(prepared.data, copied)
    assert outcome(again) == outcome(metrics)
    one, two = (path / "frozen" / "tables.safetensors" for path in (folder, copied))
    assert one.read_bytes() == two.read_bytes()


def test_config_yaml_is_resolved(finished):
    """Every setting stands in it, defaults included: a later default cannot change the run."""
    plain = yaml.safe_load((finished[0] / "config.yaml").read_text())
    assert plain["optimizer"]["rows"] == "rowwise_adamax"
    assert build_config(copy.deepcopy(plain)).to_dict() == plain


def test_the_seed_decides(prepared, finished, tmp_path):
    """Another seed is another run, with the same bytes."""
    other = train(prepared.data, tmp_path / "run", seed=1)
    assert other["test"] != finished[1]["test"]
    assert other["serve_bytes"] == finished[1]["serve_bytes"]


def test_schema_of_the_run_is_kept(prepared, finished):
    """For telling later which columns it was trained on."""
    stored = Schema.from_dict(json.loads((finished[0] / "dataset.json").read_text()))
    assert stored == prepared.schema


def test_the_callers_threads_are_the_callers(prepared, finished):
    """A library call that leaves torch with another number of threads would slow its caller down."""
    before = torch.get_num_threads()
    train(prepared.data, finished[0], training__threads=1)
    assert torch.get_num_threads() == before


def test_a_cut_table_goes_on_without_room_for_the_whole(prepared, tmp_path, monkeypatch):
    """OptEmbed retrains in a process that never holds the rows it was cut from."""
    whole = train(prepared.data, tmp_path, table__method="optembed")
    (tmp_path / "metrics.json").unlink()
    made = []
    build = FusedRows.__init__
    monkeypatch.setattr(
        FusedRows, "__init__", lambda self, rows, *rest: (made.append(rows), build(self, rows, *rest))[1]
    )
    again = train(prepared.data, tmp_path, table__method="optembed")
    assert outcome(again) == outcome(whole)
    assert 0 < sum(made) < 0.9 * sum(feature.num_ids for feature in prepared.schema.features)
