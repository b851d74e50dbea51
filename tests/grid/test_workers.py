"""Runs side by side: within jobs and memory, ended with the command, never one of them twice at once."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from slimtab.cli import main
from slimtab.config import load_config
from slimtab.errors import SlimtabError
from slimtab.files import locked
from slimtab.grid.memory import estimate
from slimtab.grid.workers import Task, Workers, _Started
from slimtab.schema import Schema

SMALL = {
    "table.dim": 8,
    "model.options": {"mlp": [8]},
    "training.epochs": 1,
    "training.batch_size": 400,
    "training.threads": 1,
}


def grid_file(folder, data, **changes):
    values = {"data": [str(data)], "methods": ["full", "hash"], "budgets": ["20%"], "seeds": 2, **changes}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**values, "settings": SMALL}))
    return path


class Sleepers(Workers):
    """Workers whose tasks sleep, and that remember what stood side by side."""

    def __init__(self, jobs, memory):
        super().__init__(jobs, memory, told=print)
        self.together = []

    def _start(self, task):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
        self.together.append([task.memory(), *(started.memory for started in self._started)])
        return _Started(task, task.memory(), process)


def tasks(tmp_path, *sizes):
    return [
        Task(tmp_path / str(number), lambda size=size: size, lambda: None)
        for number, size in enumerate(sizes)
    ]


class TestWorkers:
    def test_memory(self, tmp_path):
        """A large one waits for room, and smaller ones behind it need not wait with it."""
        workers = Sleepers(jobs=3, memory=10)
        over = list(workers.run(tasks(tmp_path, 6, 6, 3, 3)))
        assert sorted(over) == [(tmp_path / str(number), None) for number in range(4)]
        assert max(sum(sizes) for sizes in workers.together) <= 10
        assert [3, 6] in workers.together

    def test_jobs(self, tmp_path):
        """No limit on memory is none."""
        workers = Sleepers(jobs=2, memory=None)
        assert len(list(workers.run(tasks(tmp_path, 9, 9, 9)))) == 3
        assert max(len(sizes) for sizes in workers.together) == 2

    def test_what_turns_out_too_large_is_not_started(self, tmp_path):
        """A first seed may take more than was thought; the others of its cell then fail in a line."""
        workers = Sleepers(jobs=2, memory=10)
        over = dict(workers.run(tasks(tmp_path, 11, 3)))
        assert over[tmp_path / "0"] == "takes about 11 B, more than --memory 10 B"
        assert over[tmp_path / "1"] is None

    def test_leaving_ends_them(self, tmp_path):
        """Ctrl-C in the loop over the outcomes leaves no process behind."""
        workers = Sleepers(jobs=2, memory=None)
        outcomes = workers.run(tasks(tmp_path, 1, 1, 1, 1))
        next(outcomes)
        running = [started.process for started in workers._started]
        outcomes.close()
        assert all(process.poll() is not None for process in running)


class TestMemory:
    def test_estimate_grows_with_tables(self, prepared):
        """Base, data and tables: a hundred times wider rows need that much more, and nothing is allocated."""
        schema = Schema.load(prepared.data / "schema.json")

        def need(dim):
            return estimate(load_config(None, {"table.dim": dim}), schema)

        rows = 4 * sum(feature.num_ids for feature in schema.features)
        assert need(8) > 500e6
        assert need(2008) - need(8) > 3 * 2000 * rows  # values and Adam's two moments
        assert need(2_000_000) > 1e12 * rows / 4e6

    def test_a_run_that_alone_is_too_large_is_refused(self, capsys, prepared, tmp_path):
        """In one line, before anything is trained."""
        grid = grid_file(tmp_path, prepared.data)
        out = tmp_path / "out"
        assert main(["compare", "--grid", str(grid), "-o", str(out), "--memory", "50MB"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("slimtab: full at own size on data takes about 6")
        assert line.endswith("alone, more than --memory 50 MB; allow more, or leave it out")
        assert not list(out.rglob("checkpoints"))


def processes_of(folder):
    """Numbers of the processes that have a folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def finished(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/metrics.json")}


def stopped(arguments, out, number, how):
    """Start a grid and send it a signal once ``number`` runs are finished and others are under way."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(finished(out)) < number or len(processes_of(out)) < 2:
        assert process.poll() is None, "it was over too soon"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    return process.wait(timeout=60)


@pytest.mark.slow
def test_killed_twice_it_loses_no_finished_run(prepared, tmp_path):
    """By SIGTERM it takes its runs with it at once; by SIGKILL it cannot, and the next one waits for them."""
    grid, out = grid_file(tmp_path, prepared.data, seeds=3), tmp_path / "out"
    arguments = [
        sys.executable,
        "-m",
        "slimtab",
        "compare",
        "--grid",
        str(grid),
        "-o",
        str(out),
        "--jobs",
        "2",
    ]
    assert stopped(arguments, out, 1, signal.SIGTERM) == 130
    assert processes_of(out) == []
    first = finished(out)
    assert stopped(arguments, out, len(first) + 1, signal.SIGKILL) == -signal.SIGKILL
    second = finished(out)
    last = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    done = finished(out)
    assert len(done) == 6
    assert all(done[path] == stamp for path, stamp in {**first, **second}.items())


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_run_that_another_process_trains_is_waited_for(tmp_path, ends_well):
    """Such as one that outlived a killed grid: it is begun again only if it came to nothing."""
    begun, told = threading.Event(), []

    def other():
        with locked(tmp_path):
            begun.set()
            time.sleep(0.5)
            if ends_well:
                (tmp_path / "metrics.json").write_text("{}")

    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(10)
    ((folder, reason),) = Workers(1, None, told.append).run([Task(tmp_path, lambda: 0, lambda: None)])
    thread.join()
    assert folder == tmp_path
    assert told == [f"{folder} is being trained by process {os.getpid()}; wait for it to end, or stop it"]
    assert (tmp_path / "log.txt").exists() is not ends_well
    assert (reason is None) is ends_well  # there is no config.yaml to begin it with


def test_a_second_training_in_a_folder_is_refused(prepared, tmp_path, capsys):
    """Two processes that write the same checkpoints would leave neither's."""
    arguments = ["train", str(prepared.data), "--run", str(tmp_path / "run")]
    with locked(tmp_path / "run"):
        assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is being trained by process {os.getpid()}" in line
    with pytest.raises(SlimtabError), locked(tmp_path / "run"), locked(tmp_path / "run"):
        pass


def test_a_full_table_is_trained_once(prepared, tmp_path):
    """What rq trains first, the run of full has trained: rq goes on from there."""
    path = grid_file(tmp_path, prepared.data, methods=["full", "rq"], budgets=["30%"], seeds=1)
    assert main(["compare", "--grid", str(path), "-o", str(tmp_path / "out")]) == 0
    full, coded = (
        [
            line.partition(":")[0]
            for line in (folder / "log.txt").read_text().splitlines()
            if "valid AUC" in line
        ]
        for folder in sorted((tmp_path / "out" / "runs").glob("*/*"))
    )
    assert len(full) == 1
    assert coded.count(full[0]) == 1  # where the second stage begins
    assert len(coded) > 1
