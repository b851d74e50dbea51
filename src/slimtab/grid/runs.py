"""Running a grid: what is finished is read, what is not is trained, what fails is kept for the end."""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from slimtab.beginning import why_not
from slimtab.config import RunConfig, load_config
from slimtab.errors import SlimtabError
from slimtab.grid.memory import estimate
from slimtab.grid.places import OWN_SIZE, Place, places, run_config
from slimtab.grid.settings import GridConfig
from slimtab.grid.workers import Task, Workers
from slimtab.reporting.compare import load_runs
from slimtab.reporting.pivot import Cell
from slimtab.schema import Schema
from slimtab.sizes import format_bytes

Point = dict[str, Any]  # what is tuned, by dotted key
Key = tuple[str, str, Any]  # dataset, method and budget of a cell


class Grid:
    """The runs of a grid, under one folder.

    Args:
        config: what to run.
        out: folder; run folders go to ``runs/DATASET/`` in it.
        jobs: runs side by side. Above one, each gets a single thread.
        first_seed: seeds are counted up from here.
        memory: bytes that runs may take together, by what they are expected to take; None for no limit.

    Attributes:
        finished: metrics of finished runs by folder, once :meth:`run` is over.
        failed: the last line that a failed run wrote, by folder.

    Raises:
        SlimtabError: when a dataset, a method or one of its options does not exist.
    """

    def __init__(
        self, config: GridConfig, out: Path, jobs: int = 1, first_seed: int = 0, memory: int | None = None
    ) -> None:
        if jobs < 1:
            raise SlimtabError(f"{jobs} jobs run nothing; give --jobs 1 or more")
        self.config, self.out, self.jobs, self.memory = config, out, jobs, memory
        self.seeds = range(first_seed, first_seed + config.seeds)
        self.places = [place for data in config.data for place in places(config, data)]
        self.finished: dict[Path, dict[str, Any]] = {}
        self.failed: dict[Path, str] = {}
        self._peaks: dict[Key, int] = {}  # the most bytes that a finished run of each cell took
        self._estimates: dict[Key, int] = {}

    def run(self) -> None:
        """Train what is not finished: first what is tuned over, then the other seeds of the best points.

        Raises:
            SlimtabError: when a folder holds a run of other settings or data, or, before anything is
                trained, when a run alone would take more memory than there may be.
        """
        from tqdm import tqdm

        open_places = [place for place in self.places if not place.note]
        first = self._jobs(
            (place, point, self.seeds[0]) for place in open_places for point in self._points(place)
        )
        cells = {_key(place) for place in open_places}
        self._check_memory(open_places)
        total = len(first) + len(cells) * (len(self.seeds) - 1)
        hidden = not sys.stderr.isatty()
        with tqdm(total=total, unit="run", disable=hidden, dynamic_ncols=True) as bar:
            self._train(first, bar)
            # Seed after seed: a grid that is stopped leaves whole tables of the seeds before.
            rest = self._jobs(
                (place, point, seed)
                for seed in self.seeds[1:]
                for place in open_places
                if (point := self._best(place)) is not None
            )
            self._train(rest, bar)

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
        """Return a run's metrics with its method called as the grid calls it, which says how it was set."""
        named = {**self.finished[folder], "method": place.method.name}
        named.pop("settings", None)
        return named

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

    def _jobs(self, wanted: Iterator[tuple[Place, Point, int]]) -> dict[Path, Place]:
        """Return the folders of runs, each with its config written in it; cells that coincide share one.

        Finished runs are read, and say how much memory others of their cells will take.
        """
        places = {}
        for place, point, seed in wanted:
            folder = self._folder(place, point, seed)
            if folder not in places:
                _claim(folder, run_config(self.config, place, point, seed, folder))
                places[folder] = place
                if (folder / "metrics.json").exists():
                    self._read(folder, place)
        return places

    def _train(self, jobs: Mapping[Path, Place], bar: Any) -> None:
        """Train what is not finished, and tell of each run."""
        for folder in jobs:
            if folder in self.finished:
                self._tell(bar, folder)
        tasks = [
            Task(folder, partial(self._memory, place), partial(self._source, folder, place))
            for folder, place in jobs.items()
            if folder not in self.finished
        ]
        workers = Workers(self.jobs, self.memory, lambda line: bar.write(line, file=sys.stderr))
        with closing(workers.run(tasks)) as outcomes:
            for folder, reason in outcomes:
                if reason is None:
                    self._read(folder, jobs[folder])
                else:
                    self.failed[folder] = reason
                self._tell(bar, folder)

    def _read(self, folder: Path, place: Place) -> None:
        (run,) = load_runs([folder])
        self.finished[folder] = run
        if "peak_memory_bytes" in run:  # runs of earlier versions have none
            key = _key(place)
            self._peaks[key] = max(self._peaks.get(key, 0), run["peak_memory_bytes"])

    def _memory(self, place: Place) -> int:
        """Return the bytes that a run of a cell takes: the most a finished one took, or an estimate."""
        key = _key(place)
        if self.memory is None or key in self._peaks:
            return self._peaks.get(key, 0)
        if key not in self._estimates:
            schema = Schema.load(Path(place.data) / "schema.json")
            config = run_config(self.config, place, self._points(place)[0], self.seeds[0], Path())
            self._estimates[key] = estimate(config, schema)
        return self._estimates[key]

    def _source(self, folder: Path, place: Place) -> Path | None:
        """Return the finished run of ``full`` that has trained a run's first stage already."""
        config = load_config(folder / "config.yaml", {})
        data = Path(place.data).resolve()  # which may have been named otherwise when that run was made
        same = (o for o, run in self.finished.items() if Path(run["data"]["path"]).resolve() == data)
        return next((other for other in same if not why_not(other, config)), None)

    def _check_memory(self, open_places: list[Place]) -> None:
        for place in open_places:
            need = 0 if self._is_finished(place) else self._memory(place)
            if self.memory is not None and need > self.memory:
                raise SlimtabError(
                    f"{place.method.name} at {place.column} on {Path(place.data).name} takes about "
                    f"{format_bytes(need)} alone, more than --memory {format_bytes(self.memory)}; "
                    "allow more, or leave it out"
                )

    def _is_finished(self, place: Place) -> bool:
        """Return whether a cell has nothing left to train."""
        points, best = self._points(place), self._best(place)
        wanted = [(point, self.seeds[0]) for point in points]
        wanted += [(point, seed) for point in [best] if point is not None for seed in self.seeds[1:]]
        return all((self._folder(place, *which) / "metrics.json").exists() for which in wanted)

    def _tell(self, bar: Any, folder: Path) -> None:
        run = self.finished.get(folder)
        outcome = f"test AUC {run['test']['auc']:.4f}" if run else f"failed: {self.failed[folder]}"
        bar.write(f"{folder.parent.name}/{folder.name}: {outcome}", file=sys.stderr)
        bar.update()


def _key(place: Place) -> Key:
    """Return what makes runs the same but for their seed and what is tuned."""
    return place.data, place.method.name, place.budget


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
