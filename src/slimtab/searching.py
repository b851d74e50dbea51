"""A search as a run: supernet, evolution, retraining, freezing; each goes on where it was stopped."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slimtab.config import RunConfig, load_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.models.base import CTRModel
from slimtab.reporting.front import FrontBoard, write_front
from slimtab.run import train_run
from slimtab.schema import Schema
from slimtab.search.candidates import Candidates, split
from slimtab.search.evolution import evolve, finalists, front, pick
from slimtab.search.folder import keep_supernet, search_study, take_study, take_supernet
from slimtab.search.sampler import EvolutionSampler
from slimtab.sizes import Budget
from slimtab.tables.optembed import OptEmbed, OptEmbedConfig
from slimtab.tables.parts.shape import Shape, widened

_BATCH = 1024  # rows looked up at a time


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        generations: of the evolution.
        population: candidates in each.
        rows: validation rows that candidates are scored on, about; None takes a sixth, 2048 at least.
        objective: ``front`` for AUC against bytes, ``auc`` for the best AUC within the budget.
        source: run folder whose supernet and study are taken over, for another budget without another search.
    """

    generations: int = 30
    population: int = 20
    rows: int | None = None
    objective: Literal["front", "auc"] = "front"
    source: str | None = None


def search_run(config: RunConfig, settings: SearchSettings) -> dict[str, Any]:
    """Train a supernet, search its shapes, retrain the one that fits, freeze it, and write the run folder.

    Methods with stages but without shapes to search are trained through their stages.

    Args:
        config: of the run; the budget says which point of the front is retrained.
        settings: of the search.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        SlimtabError: when a setting is wrong, the folder holds something else, or no candidate fits.
    """
    if settings.objective == "auc" and config.table.budget is None:
        raise SlimtabError("objective auc needs a budget; add --budget 10%")
    folder = Path(config.run)
    if settings.source is not None and not (folder / "config.yaml").exists():
        source = Path(settings.source)
        _check_source(config, source)
        take_supernet(source, folder)
        take_study(source, folder)

    def choose(model: CTRModel, stage: str) -> None:
        if isinstance(model.tables.table, OptEmbed):
            keep_supernet(folder)
            _Search(config, settings, model, folder).run()
        else:
            model.tables.table.choose(stage)  # type: ignore[operator]

    return train_run(config, choose=choose)


def join_search(config: RunConfig, settings: SearchSettings, worker: int) -> int:
    """Help another process with its search: score candidates until its study is full.

    Args:
        config: of the run whose search has begun.
        settings: of the search.
        worker: number of this process, 1 or more, another for each.

    Returns:
        How many candidates the study holds.

    Raises:
        SlimtabError: when the run's supernet is not trained yet.
    """
    folder = Path(config.run)
    scored = 0

    def choose(model: CTRModel, stage: str) -> None:
        nonlocal scored
        scored = _Search(config, settings, model, folder, worker).evolve()
        raise _SearchIsOver

    with tempfile.TemporaryDirectory() as place, contextlib.suppress(_SearchIsOver):
        take_supernet(folder, Path(place))
        train_run(replace(config, run=place), choose=choose)
    return scored


class _SearchIsOver(Exception):  # noqa: N818
    """What comes next is not a helper's business."""


def _check_source(config: RunConfig, source: Path) -> None:
    """Raise when a run cannot go on from the supernet in ``source``."""
    if not (source / "config.yaml").exists():
        raise SlimtabError(f"{source} is no run folder; name the folder of a `slimtab search`")
    theirs = load_config(source / "config.yaml", {})
    for part in ("model", "table"):
        old, new = asdict(getattr(theirs, part)), asdict(getattr(config, part))
        for key in old.keys() - {"budget"}:
            if old[key] != new[key]:
                raise SlimtabError(
                    f"the supernet in {source} has {part}.{key}={old[key]}, not {new[key]}; "
                    "take its settings, or leave --from out"
                )
    schema = Schema.load(Path(config.data) / "schema.json")
    if json.loads((source / "dataset.json").read_text(encoding="utf-8")) != schema.to_dict():
        raise SlimtabError(f"the supernet in {source} was trained on other data than {config.data}")


class _Search:
    """One search, between a supernet and its retraining."""

    def __init__(
        self, config: RunConfig, settings: SearchSettings, model: CTRModel, run: Path, worker: int = 0
    ) -> None:
        table = model.tables.table
        assert isinstance(table, OptEmbed)
        self.settings, self.table, self.folder = settings, table, run / "search"
        data = Path(config.data)
        schema = Schema.load(data / "schema.json")
        self.full = schema.full_bytes(config.table.dim)
        budget = config.table.budget
        self.budget = None if budget is None else Budget.parse(budget).resolve(self.full)
        some, self.others = split(list(Loader(data, "valid", _BATCH, shuffle=False)), settings.rows)
        self.candidates = Candidates(model.cpu(), some)  # where the batches are
        belongs = {"data": schema.fingerprint(), "dim": table.dim, "method": table.method}
        front = settings.objective == "front"
        self.study = search_study(
            run,
            ["maximize", "minimize"] if front else ["maximize"],
            belongs if front else {**belongs, "budget": self.budget},
        )
        self.sampler = EvolutionSampler(
            self.candidates.space(), config.seed, settings.population, worker=worker
        )
        self.board = FrontBoard(self.folder / "tb" / f"worker-{worker}", self.full, settings.population)

    def run(self) -> None:
        """Search, write the front, and tell the table what to keep."""
        self.evolve()
        names = self.candidates.names
        judge = self.candidates.on(self.others)
        points = finalists(self.study, self.sampler, judge, self.budget)
        seen = [t.values for t in self.study.get_trials(deepcopy=False) if len(t.values) == 2]
        write_front(self.folder, names, self.full, front(points), seen)
        point = pick(points, judge, self.budget)
        shape = self._filled(point.shape)
        self.board.chosen(names, self.table.sizes, replace(point, shape=shape, nbytes=judge.nbytes(shape)))
        for name, kept in zip(names, shape.kept, strict=True):
            if not kept:
                print(f"feature '{name}' keeps no row: it is served as zeros", file=sys.stderr)
        assert isinstance(self.table.config, OptEmbedConfig)
        self.table.config = replace(self.table.config, floats=shape.floats)
        self.table.cut_to(shape)

    def _filled(self, shape: Shape) -> Shape:
        """Return a shape with what a budget leaves room for: more columns, of the narrowest first.

        Later coordinates are trained in a part of the samples only, so the supernet makes less of them than
        retraining does.
        """
        config = self.table.config
        if self.budget is None or not config.columns_are_cut:
            return shape
        return widened(shape, self.table.dim, config.floats)

    def evolve(self) -> int:
        """Score candidates until the study is full, and return how many it holds."""
        from tqdm import tqdm

        trials = self.settings.generations * self.settings.population
        done = len(self.study.get_trials(deepcopy=False))
        with tqdm(total=trials, initial=done, unit="candidate", disable=not sys.stderr.isatty()) as bar:

            def told(number: int, auc: float, nbytes: int) -> None:
                self.board.told(number, auc, nbytes)
                bar.set_postfix_str(f"AUC {auc:.4f} at {100 * nbytes / self.full:.1f} %")
                bar.update(number + 1 - bar.n)

            evolve(self.study, self.sampler, self.candidates, trials, self.budget, told)
        return len(self.study.get_trials(deepcopy=False))
