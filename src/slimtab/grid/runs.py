"""Running a grid: what is finished is read, what is not is trained, what fails is kept for the end."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from slimtab.config import RunConfig, load_config
from slimtab.errors import SlimtabError
from slimtab.grid.places import OWN_SIZE, Place, places, run_config
from slimtab.grid.settings import GridConfig
from slimtab.reporting.compare import load_runs
from slimtab.reporting.pivot import Cell
from slimtab.schema import Schema

Point = dict[str, Any]  # what is tuned, by dotted key


class Grid:
    """The runs of a grid, under one folder.

    Args:
        config: what to run.
        out: folder; run folders go to ``runs/DATASET/`` in it.
        jobs: runs side by side. Above one, each gets a single thread.
        first_seed: seeds are counted up from here.

    Attributes:
        finished: metrics of finished runs by folder, once :meth:`run` is over.
        failed: the last line that a failed run wrote, by folder.

    Raises:
        SlimtabError: when a dataset, a method or one of its options does not exist.
    """

    def __init__(self, config: GridConfig, out: Path, jobs: int = 1, first_seed: int = 0) -> None:
        if jobs < 1:
            raise SlimtabError(f"{jobs} jobs run nothing; give --jobs 1 or more")
        self.config, self.out, self.jobs = config, out, jobs
        self.seeds = range(first_seed, first_seed + config.seeds)
        self.places = [place for data in config.data for place in places(config, data)]
        self.finished: dict[Path, dict[str, Any]] = {}
        self.failed: dict[Path, str] = {}
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self) -> None:
        """Train what is not finished: first what is tuned over, then the other seeds of the best points.

        Raises:
            SlimtabError: when a folder holds a run of other settings or data.
        """
        from tqdm import tqdm

        open_places = [place for place in self.places if not place.note]
        first = self._jobs(
            (place, point, self.seeds[0]) for place in open_places for point in self._points(place)
        )
        cells = {(place.data, place.method.name, place.budget) for place in open_places}
        total = len(first) + len(cells) * (len(self.seeds) - 1)
        hidden = not sys.stderr.isatty()
        with tqdm(total=total, unit="run", disable=hidden, dynamic_ncols=True) as bar:
            for folder in self._train(first):
                self._tell(bar, folder)
            # Seed after seed: a grid that is stopped leaves whole tables of the seeds before.
            rest = self._jobs(
                (place, point, seed)
                for seed in self.seeds[1:]
                for place in open_places
                if (point := self._best(place)) is not None
            )
            for folder in self._train(rest):
                self._tell(bar, folder)

    def cells(self, data: str) -> list[Cell]:
        """Return a dataset's cells with their finished runs, each at its best point."""
        cells = []
        for place in self.places:
            if place.data == data:
                point = None if place.note else self._best(place)
                folders = [] if point is None else [self._folder(place, point, seed) for seed in self.seeds]
                runs = tuple(self._named(place, folder) for folder in folders if folder in self.finished)
                note = place.note or ("" if runs else "failed")
                cells.append(Cell(place.method.name, place.column, runs, note, place.target, point or {}))
        return cells

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every finished run once, those that tuning discarded too, with its place in the grid."""
        seen: set[Path] = set()
        for place in self.places:
            best = None if place.note else self._best(place)
            for point, seed in itertools.product([] if place.note else self._points(place), self.seeds):
                folder = self._folder(place, point, seed)
                if folder in self.finished and folder not in seen:
                    seen.add(folder)
                    yield {
                        **self.finished[folder],
                        "dataset": Path(place.data).name,
                        "name": place.method.name,
                        "budget": OWN_SIZE if place.budget is None else place.budget,
                        "tuned": point,
                        "chosen": "yes" if point == best else "no",
                    }

    def _named(self, place: Place, folder: Path) -> dict[str, Any]:
        """Return a run's metrics with its method called as the grid calls it."""
        return {**self.finished[folder], "method": place.method.name}

    def _points(self, place: Place) -> list[Point]:
        """Return the points to tune over: a single, empty one where nothing is tuned."""
        tuned = {key: v for key, v in self.config.tune.items() if key not in place.method.settings}
        return [dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())]

    def _best(self, place: Place) -> Point | None:
        """Return the point with the lowest validation logloss; None when none of several was finished."""
        points = self._points(place)
        if len(points) == 1:
            return points[0]
        losses = [
            (self.finished[folder]["valid"]["logloss"], number)
            for number, point in enumerate(points)
            if (folder := self._folder(place, point, self.seeds[0])) in self.finished
        ]
        return points[min(losses)[1]] if losses else None

    def _folder(self, place: Place, point: Mapping[str, Any], seed: int) -> Path:
        budget = "own" if place.budget is None else str(place.budget).replace("%", "pct")
        words = [place.method.name, budget, *(f"{key}={value}" for key, value in point.items()), f"s{seed}"]
        return self.out / "runs" / Path(place.data).name / re.sub(r"[^\w.=+-]+", "_", "-".join(words))

    def _jobs(self, wanted: Iterator[tuple[Place, Point, int]]) -> list[Path]:
        """Return the folders of runs, each with its config written in it; cells that coincide share one."""
        configs = {}
        for place, point, seed in wanted:
            folder = self._folder(place, point, seed)
            configs[folder] = run_config(self.config, place, point, seed, folder)
        for folder, config in configs.items():
            _claim(folder, config)
        return list(configs)

    def _train(self, folders: list[Path]) -> Iterator[Path]:
        """Yield folders as their runs are over, finished ones first."""
        done = [folder for folder in folders if (folder / "metrics.json").exists()]
        for folder in done:
            self._read(folder)
            yield folder
        pool = ThreadPoolExecutor(self.jobs)
        try:
            waiting = {pool.submit(self._process, folder): folder for folder in folders if folder not in done}
            for future in as_completed(waiting):
                reason, folder = future.result(), waiting[future]
                if reason is None:
                    self._read(folder)
                else:
                    self.failed[folder] = reason
                yield folder
        finally:  # stopped on the way: start nothing more, and leave nothing running
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(self._running):
                process.terminate()
            pool.shutdown()

    def _process(self, folder: Path) -> str | None:
        """Train one run to its end; return the last line it wrote when it failed."""
        command = [sys.executable, "-m", "slimtab", "train", "--config", str(folder / "config.yaml")]
        one_thread = {"OMP_NUM_THREADS": "1"} if self.jobs > 1 else {}
        environment = {"PYTHONWARNINGS": "ignore", **os.environ, **one_thread}
        log = folder / "log.txt"
        with log.open("wb") as errors:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
            self._running.add(process)
            try:
                status = process.wait()
            finally:
                self._running.discard(process)
        if status == 0:
            return None
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")

    def _read(self, folder: Path) -> None:
        (self.finished[folder],) = load_runs([folder])

    def _tell(self, bar: Any, folder: Path) -> None:
        run = self.finished.get(folder)
        outcome = f"test AUC {run['test']['auc']:.4f}" if run else f"failed: {self.failed[folder]}"
        bar.write(f"{folder.parent.name}/{folder.name}: {outcome}", file=sys.stderr)
        bar.update()


def _claim(folder: Path, config: RunConfig) -> None:
    """Write the config of a run where there is none yet.

    Raises:
        SlimtabError: when the folder holds a run of other settings or data.
    """
    path = folder / "config.yaml"
    if path.exists() and ((folder / "metrics.json").exists() or any((folder / "checkpoints").glob("*"))):
        old = dataclasses.replace(load_config(path, {}), run=config.run, data=config.data)
        if old != config:
            raise SlimtabError(f"{folder} holds a run with other settings; choose another -o, or delete it")
        if (folder / "metrics.json").exists():
            (run,) = load_runs([folder])
            if run["data"]["fingerprint"] != Schema.load(Path(config.data) / "schema.json").fingerprint():
                raise SlimtabError(f"{config.data} has changed since {folder} was run; choose another -o")
        return
    folder.mkdir(parents=True, exist_ok=True)
    config.save(path)
