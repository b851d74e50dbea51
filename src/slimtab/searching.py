"""A search as a run: supernet, evolution, retraining, freezing; each goes on where it was stopped."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slimtab.config import RunConfig
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.files import written
from slimtab.models.base import CTRModel
from slimtab.reporting.front import FrontBoard, write_front
from slimtab.run import train_run
from slimtab.schema import Schema
from slimtab.search.candidates import Candidates, sample
from slimtab.search.evolution import Point, evolve, front
from slimtab.search.sampler import EvolutionSampler
from slimtab.sizes import Budget, format_bytes
from slimtab.tables.optembed import OptEmbed, OptEmbedConfig
from slimtab.training.checkpoint import latest_checkpoint

_BATCH = 1024  # rows looked up at a time
_SUPERNET = ("initial.safetensors", "best-supernet.safetensors")


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        generations: of the evolution.
        population: candidates in each.
        rows: validation rows that candidates are scored on, about; None takes a sixth, 2048 at least.
        objective: ``front`` for AUC against bytes, ``auc`` for the best AUC within the budget.
        tolerance: without a budget the smallest table is taken that loses no more AUC than this against the
            best one on all validation rows, in the supernet.
        source: run folder whose supernet and study are taken over, for another budget without another search.
    """

    generations: int = 30
    population: int = 20
    rows: int | None = None
    objective: Literal["front", "auc"] = "front"
    tolerance: float = 0.0005
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
    if settings.source is not None:
        take_over(Path(settings.source), folder)

    def choose(model: CTRModel, stage: str) -> None:
        table = model.tables.table
        if isinstance(table, OptEmbed):
            _Search(config, settings, model, table, folder).run()
        else:
            table.choose(stage)  # type: ignore[operator]

    return train_run(config, choose=choose)


class _Search:
    """One search, between a supernet and its retraining."""

    def __init__(
        self, config: RunConfig, settings: SearchSettings, model: CTRModel, table: OptEmbed, run: Path
    ) -> None:
        self.settings, self.model, self.table, self.run_folder = settings, model, table, run
        self.data, self.seed = Path(config.data), config.seed
        self.schema = Schema.load(self.data / "schema.json")
        self.full = self.schema.full_bytes(config.table.dim)
        budget = config.table.budget
        self.budget = None if budget is None else Budget.parse(budget).resolve(self.full)
        self.folder = run / "search"
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Search, write the front, and tell the table what to keep."""
        self._keep_supernet()
        batches = list(Loader(self.data, "valid", _BATCH, shuffle=False))
        some = Candidates(self.model, sample(batches, self.settings.rows))
        study, trials = self._study(), self.settings.generations * self.settings.population
        sampler = EvolutionSampler(some.space(), self.seed, self.settings.population)
        board = FrontBoard(self.folder / "tb", self.full, self.settings.population)
        self._evolve(study, sampler, some, trials, board)
        points = list(front(study, sampler, some.on(batches)))
        seen = [t.values for t in study.get_trials(deepcopy=False) if len(t.values) == 2]
        write_front(self.folder, some.names, self.full, points, seen)
        point = self._pick(points)
        board.chosen(some.names, self.table.sizes, point)
        for name, kept in zip(some.names, point.shape.kept, strict=True):
            if not kept:
                print(f"feature '{name}' keeps no row: it is served as zeros", file=sys.stderr)
        assert isinstance(self.table.config, OptEmbedConfig)
        self.table.config = replace(self.table.config, floats=point.shape.floats)
        self.table.cut_to(point.shape)

    def _evolve(
        self, study: Any, sampler: EvolutionSampler, candidates: Candidates, trials: int, board: FrontBoard
    ) -> None:
        from tqdm import tqdm

        done = len(study.get_trials(deepcopy=False))
        with tqdm(total=trials, initial=done, unit="candidate", disable=not sys.stderr.isatty()) as bar:

            def told(number: int, auc: float, nbytes: int) -> None:
                board.told(number, auc, nbytes)
                bar.set_postfix_str(f"AUC {auc:.4f} at {100 * nbytes / self.full:.1f} %")
                bar.update()

            evolve(study, sampler, candidates, trials, self.budget, told)

    def _study(self) -> Any:
        """Open the study in the folder, or make one."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(self.folder / "study.journal"))),
            study_name="widths",
            load_if_exists=True,
            directions=["maximize", "minimize"] if self.settings.objective == "front" else ["maximize"],
        )
        belongs = {"data": self.schema.fingerprint(), "dim": self.table.dim, "method": self.table.method}
        if not study.user_attrs:
            for key, value in belongs.items():
                study.set_user_attr(key, value)
        for key, value in belongs.items():
            if study.user_attrs.get(key) != value:
                raise SlimtabError(
                    f"{self.folder / 'study.journal'} belongs to another search ({key} is "
                    f"{study.user_attrs.get(key)}, not {value}); choose another --run"
                )
        return study

    def _pick(self, points: list[Point]) -> Point:
        """Return the best point within the budget, or the smallest that loses next to nothing."""
        if self.budget is None:
            best = max(point.auc for point in points)
            return next(point for point in points if point.auc >= best - self.settings.tolerance)
        fitting = [point for point in points if point.nbytes <= self.budget]
        if not fitting:
            least = min((point.nbytes for point in points), default=0)
            raise SlimtabError(
                f"no candidate fits {format_bytes(self.budget)} ({self.budget} bytes); the smallest found "
                f"has {least} bytes: raise the budget, or search for more --generations"
            )
        return max(fitting, key=lambda point: point.auc)

    def _keep_supernet(self) -> None:
        """Copy what another run needs to begin at this search."""
        checkpoints = self.run_folder / "checkpoints"
        newest = latest_checkpoint(checkpoints)
        assert newest is not None
        for path in (newest, *(checkpoints / name for name in _SUPERNET)):
            kept = self.folder / ("supernet.safetensors" if path == newest else path.name)
            if not kept.exists():
                with written(kept) as beside:
                    shutil.copyfile(path, beside)


def take_over(source: Path, run: Path) -> None:
    """Put another search's supernet and study into a new run folder, which then goes on from them.

    Raises:
        SlimtabError: when ``source`` holds none.
    """
    kept, checkpoints = source / "search", run / "checkpoints"
    if not (kept / "supernet.safetensors").exists():
        raise SlimtabError(f"{source} holds no finished supernet; name the folder of a `slimtab search`")
    if (run / "config.yaml").exists():
        return
    for folder in (run / "search", checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    for name in (*_SUPERNET, "supernet.safetensors", "study.journal"):
        shutil.copyfile(kept / name, run / "search" / name)
    for name in _SUPERNET:
        shutil.copyfile(kept / name, checkpoints / name)
    shutil.copyfile(kept / "supernet.safetensors", checkpoints / "step-0000000000.safetensors")
