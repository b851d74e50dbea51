"""`slimtab search` as a process: killed in mid-search it goes on, and another budget needs no search."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

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


def test_killed_in_mid_search_it_ends_the_same(data, tmp_path):
    """And `--from` picks another point of the same front."""
    whole = json.loads(run(*search(data, tmp_path / "a", "--budget", "20%")))
    process = subprocess.Popen(
        command(*search(data, tmp_path / "b", "--budget", "20%")), stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "b" / "search" / "study.journal"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (journal.exists() and journal.read_text().count("\n") > 12):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
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
    refused = subprocess.run(
        command(*search(data, tmp_path / "d", "--budget", "300", "--from", str(tmp_path / "a"))),
        capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "cannot fit" in refused.stderr
