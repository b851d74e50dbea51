"""A sweep in real processes: several at once, killed and gone on with, trials that fail or are the same."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from optuna.study import Study
from optuna.trial import TrialState

from slimtab.cli import main
from slimtab.studies import open_study
from slimtab.sweep.settings import read_sweep
from slimtab.sweep.study import next_trial, sweep_study
from slimtab.sweep.worker import work

SMALL = {
    "table.dim": 8,
    "model.options": {"mlp": [8]},
    "training.epochs": 2,
    "training.batch_size": 400,
    "training.threads": 1,
}


def sweep_file(folder, prepared, **values):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"data": str(prepared.data), "settings": SMALL, **values}))
    return path


def trials(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_front(prepared, tmp_path, capsys):
    """Two objectives: what is found costs more bytes only where it is better, and each trial is a run."""
    space = {"table.budget": ["50%", "10%", "2%"], "table.method": ["hash", "unified"]}
    path = sweep_file(tmp_path, prepared, objectives=["auc", "bytes"], space=space, trials=8)
    assert main(["sweep", str(path), "-o", str(tmp_path / "out"), "--jobs", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert [one["bytes"] for one in found] == sorted(one["bytes"] for one in found)
    assert [one["auc"] for one in found] == sorted(one["auc"] for one in found)
    lines = trials(tmp_path / "out")
    assert len(lines) == 8
    assert {line["state"] for line in lines} == {"complete"}
    for one in found:
        metrics = json.loads(
            (tmp_path / "out" / "trials" / f"{one['trial']:04d}" / "metrics.json").read_text()
        )
        assert (metrics["valid"]["auc"], metrics["serve_bytes"]) == (one["auc"], one["bytes"])
    assert (tmp_path / "out" / "front.png").read_bytes().startswith(b"\x89PNG")
    study = open_study(tmp_path / "out" / "study.journal", "out", {"auc": "maximize", "bytes": "minimize"})
    assert study.metric_names == ["auc", "bytes"]  # what optuna-dashboard calls them
    # Six settings and eight trials: what was trained before is not trained again.
    settings = [(line["table.budget"], line["table.method"]) for line in lines if not line["note"]]
    assert len(settings) == len(set(settings))


def test_no_more_are_drawn_than_wanted(prepared, tmp_path, monkeypatch):
    """Those who draw at once count what the others drew, however long drawing takes."""
    config = read_sweep(sweep_file(tmp_path, prepared, space={"table.budget": ["40%"]}, trials=3))
    ask = Study.ask

    def slow(self, *arguments):
        time.sleep(0.1)
        return ask(self, *arguments)

    monkeypatch.setattr(Study, "ask", slow)

    def draw(study):
        while True:
            with next_trial(study, config, tmp_path / "out") as trial:
                if trial is None:
                    return
                study.tell(trial, 0.5)

    studies = [sweep_study(config, tmp_path / "out") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(draw, studies))
    assert len(studies[0].get_trials()) == 3


def test_killed_it_goes_on(prepared, tmp_path):
    """The trial that was under way is taken up where it was, and none is lost or run twice."""
    space = {"optimizer.rows_lr": {"low": 0.001, "high": 0.1, "log": True}}
    long = {**SMALL, "training.epochs": 6, "training.eval_steps": 2}
    path = sweep_file(tmp_path, prepared, space=space, settings=long, trials=3)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "slimtab", "sweep", str(path), "-o", str(out), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and not list(out.glob("trials/0001/checkpoints/step-*")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = (out / "trials" / "0000" / "metrics.json").stat().st_mtime_ns
    assert not (out / "trials" / "0001" / "metrics.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 3
    assert (out / "trials" / "0000" / "metrics.json").stat().st_mtime_ns == finished
    assert [line["state"] for line in trials(out)].count("complete") + [
        line["state"] for line in trials(out)
    ].count("pruned") == 3
    best = yaml.safe_load((out / "best.yaml").read_text())
    lines = [line for line in trials(out) if line["state"] == "complete"]
    least = min(lines, key=lambda line: float(line["logloss"]))
    assert best["optimizer"]["rows_lr"] == float(least["optimizer.rows_lr"])


def test_what_cannot_be_run_fails_with_its_reason(prepared, tmp_path, capsys):
    space = {"table.budget": ["40%", "10"]}
    settings = {**SMALL, "table.method": "hash"}
    path = sweep_file(tmp_path, prepared, space=space, settings=settings, trials=3)
    assert main(["sweep", str(path), "-o", str(tmp_path / "out")]) == 0
    lines = trials(tmp_path / "out")
    failed = [line for line in lines if line["state"] == "fail"]
    assert all("cannot fit" in line["note"] for line in failed)
    assert sum(line["state"] == "complete" for line in lines) == 3
    capsys.readouterr()
    hopeless = sweep_file(tmp_path, prepared, space={"table.budget": ["10"]}, settings=settings, trials=2)
    assert main(["sweep", str(hopeless), "-o", str(tmp_path / "none")]) == 1
    assert "cannot fit" in capsys.readouterr().err


def test_another_sweep_in_the_folder_is_refused(prepared, tmp_path, capsys):
    hashed = {**SMALL, "table.method": "hash"}
    path = sweep_file(tmp_path, prepared, space={"table.budget": ["40%"]}, settings=hashed, trials=1)
    assert main(["sweep", str(path), "-o", str(tmp_path / "out")]) == 0
    more = sweep_file(
        tmp_path, prepared, space={"table.budget": ["40%"]}, settings=hashed, trials=2
    )  # more trials are welcome
    assert main(["sweep", str(more), "-o", str(tmp_path / "out")]) == 0
    assert len(trials(tmp_path / "out")) == 2
    other = sweep_file(tmp_path, prepared, space={"table.budget": ["30%"]}, settings=hashed, trials=1)
    assert main(["sweep", str(other), "-o", str(tmp_path / "out")]) == 1
    assert "differs in 'space'" in capsys.readouterr().err


@pytest.mark.parametrize("objective", ["logloss", "auc"])
def test_runs_without_hope_are_pruned(prepared, tmp_path, objective):
    """A rate at which nothing is learned is stopped after a few validations, once others showed better."""
    space = {"optimizer.lr": {"low": 1e-9, "high": 1e-2, "log": True}}
    long = {
        **SMALL,
        "training.epochs": 5,
        "training.eval_steps": 4,
        "training.patience": 50,
    }
    path = sweep_file(tmp_path, prepared, objectives=[objective], space=space, settings=long, trials=6)
    out = tmp_path / "out"
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    config = read_sweep(path)
    study = sweep_study(config, out, storage)
    for lr in (0.01, 0.009, 0.008, 0.007, 0.006, 1e-9):
        study.enqueue_trial({"optimizer.lr": lr})
    work(study, config, out)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert len(trials[-1].intermediate_values) < len(trials[0].intermediate_values)
