"""`slimtab search` as a process: killed in mid-search it goes on, and another budget needs no search."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from slimtab.schema import Schema
from slimtab.tables.optembed import OptEmbedConfig

SMALL = ["training.epochs=2", "training.batch_size=100", "training.threads=1", "model.options={mlp: [8]}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows with vocabularies, as `slimtab prep` makes them."""
    folder = tmp_path_factory.mktemp("search")
    raw = folder / "raw.tsv"
    run("synth", str(raw), "--rows", "4000", "--seed", "3")
    run("prep", "criteo", str(raw), str(folder / "data"))
    return folder / "data"


def command(*args):
    return [sys.executable, "-m", "slimtab", *args]


def run(*args):
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def search(data, folder, *more):
    sizes = ["--generations", "4", "--population", "6"]
    return ["search", str(data), "--run", str(folder), "--json", *sizes, *more, *SMALL]


def killed(data, folder):
    """Begin a search of 20 %, and kill it once some candidates are scored."""
    process = subprocess.Popen(command(*search(data, folder, "--budget", "20%")), stderr=subprocess.DEVNULL)
    journal = folder / "search" / "study.journal"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (journal.exists() and journal.read_text().count("\n") > 12):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_in_mid_search_it_ends_the_same(data, tmp_path):
    """And `--from` picks another point of the same front."""
    whole = json.loads(run(*search(data, tmp_path / "a", "--budget", "20%")))
    killed(data, tmp_path / "b")
    again = json.loads(run(*search(data, tmp_path / "b", "--budget", "20%")))
    fronts = [list(csv.reader((tmp_path / n / "search" / "front.csv").open())) for n in "ab"]
    assert fronts[0] == fronts[1]
    assert len(fronts[0]) > 2
    for key in ("test", "valid", "serve_bytes", "steps"):
        assert whole[key] == again[key]
    assert whole["serve_bytes"] <= 0.2 * whole["full_bytes"]
    frozen = tmp_path / "a" / "frozen" / "tables.safetensors"
    assert frozen.stat().st_size <= 1.02 * whole["serve_bytes"] + 64 * 1024
    other = json.loads(run(*search(data, tmp_path / "c", "--budget", "8%", "--from", str(tmp_path / "a"))))
    assert other["serve_bytes"] <= 0.08 * whole["full_bytes"]
    assert (tmp_path / "c" / "search" / "front.csv").read_text() == (
        tmp_path / "a/search/front.csv"
    ).read_text()
    stderr = refused(*search(data, tmp_path / "d", "--budget", "300", "--from", str(tmp_path / "a")))
    assert "cannot fit" in stderr


def refused(*args):
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()[-1]) < 300
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run folder whose search was killed after a few candidates."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    killed(data, folder)
    return folder


def test_processes_share_a_study(data, stopped, tmp_path):
    """Workers fill it together, nothing is scored twice, and the run goes on from what they found."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    workers = [
        subprocess.Popen(
            command(*search(data, folder, "--budget", "20%", "--worker", number)),
            stdout=subprocess.PIPE, text=True,
        )
        for number in ("1", "2")
    ]  # fmt: skip
    counts = [json.loads(worker.communicate(timeout=300)[0])["candidates"] for worker in workers]
    assert not any(worker.returncode for worker in workers)
    study = optuna.load_study(
        study_name="widths",
        storage=JournalStorage(JournalFileBackend(str(folder / "search" / "study.journal"))),
    )
    assert 24 <= min(counts) <= max(counts) <= len(study.trials) <= 25  # one may be under way at the end
    assert len({tuple(trial.params.values()) for trial in study.trials}) == len(study.trials)
    assert not (folder / "metrics.json").exists()
    metrics = json.loads(run(*search(data, folder, "--budget", "20%")))
    assert metrics["serve_bytes"] <= 0.2 * metrics["full_bytes"]


def test_no_worker_without_a_supernet(data, tmp_path):
    stderr = refused(*search(data, tmp_path / "none", "--budget", "20%", "--worker", "1"))
    assert "no finished supernet" in stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (["--dim", "8"], "table.dim=16, not 8"),
        (["--model", "dcn"], "model.name=deepfm, not dcn"),
    ],
)
def test_a_supernet_of_other_settings_is_refused(data, stopped, tmp_path, change, why):
    before = sorted(stopped.rglob("*"))
    stderr = refused(*search(data, tmp_path / "b", "--budget", "20%", "--from", str(stopped), *change))
    assert why in stderr
    assert not (tmp_path / "b").exists()
    assert sorted(stopped.rglob("*")) == before


def test_a_supernet_of_other_data_is_refused(stopped, tmp_path):
    run("synth", str(tmp_path / "raw.tsv"), "--rows", "2000", "--seed", "4")
    run("prep", "criteo", str(tmp_path / "raw.tsv"), str(tmp_path / "data"))
    sources = ["--budget", "20%", "--from", str(stopped)]
    assert "other data" in refused(*search(tmp_path / "data", tmp_path / "b", *sources))
    # And a study that was copied in is not taken for this run's.
    folder = tmp_path / "c"
    (folder / "search").mkdir(parents=True)
    journal = folder / "search" / "study.journal"
    shutil.copyfile(stopped / "search" / "study.journal", journal)
    before = journal.read_bytes()
    assert "belongs to another search" in refused(*search(tmp_path / "data", folder, "--budget", "20%"))
    assert journal.read_bytes().startswith(before)


def test_no_candidate_fits(data, stopped, tmp_path):
    """A float of one row per feature could be kept, but no share of rows is so small."""
    least = OptEmbedConfig.smallest_bytes(Schema.load(data / "schema.json").features, 16)
    budget = str(least + 40)
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / "search" / "study.journal").unlink()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("20%", f"'{budget}'"))
    few = ["--generations", "1", "--population", "2"]
    stderr = refused(*search(data, folder, "--budget", budget, *few))
    assert "no candidate fits" in stderr
    assert not (folder / "metrics.json").exists()
