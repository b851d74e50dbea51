"""The study of a sweep: where it is kept, which trial is next, and that no two processes take the same."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.studies import differing, open_study
from slimtab.sweep.settings import SweepConfig

_NOT_COUNTED = (TrialState.FAIL, TrialState.WAITING)  # made up for, and not begun
_DRAWING = timedelta(minutes=1)  # that a process may take to draw a trial's settings


def sweep_study(config: SweepConfig, out: Path, storage: str | None = None) -> Study:
    """Open the study of a sweep, or make it.

    Args:
        config: the sweep.
        out: its folder; without ``storage`` the study is ``study.journal`` in it.
        storage: any address that Optuna takes, such as ``sqlite:///sweeps.db``.

    Raises:
        SlimtabError: when the study is another sweep's.
    """
    out.mkdir(parents=True, exist_ok=True)
    study = open_study(storage or out / "study.journal", out.resolve().name, config.directions)
    study.pruner = MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    # Processes that draw at once must not draw alike, nor one that goes on repeat what it began with.
    entropy = np.random.SeedSequence([config.seed, len(study.get_trials(deepcopy=False)), os.getpid()])
    study.sampler = TPESampler(seed=int(entropy.generate_state(1)[0]), multivariate=True, constant_liar=True)
    schema = Schema.load(Path(config.data) / "schema.json")
    belongs = {**asdict(config), "data": schema.fingerprint()}
    del belongs["trials"]  # more of them are welcome
    if (key := differing(study, belongs)) is not None:
        raise SlimtabError(f"{out} holds another sweep, which differs in '{key}'; choose another -o")
    return study


@contextmanager
def next_trial(study: Study, config: SweepConfig, out: Path) -> Iterator[Trial | None]:
    """Give the process a trial of its own: one that a killed process left, or a new one; None at the end.

    The lock on the trial's folder goes with the process, however it ends.
    """
    for trial in _candidates(study, config):
        folder = trial_folder(out, trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("wb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                continue  # it was ended between the look and the lock
            yield trial
            return
    yield None


def _candidates(study: Study, config: SweepConfig) -> Iterator[Trial]:
    for known in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if known.params.keys() == config.space.keys():
            yield Trial(study, known._trial_id)
        elif known.datetime_start < datetime.now() - _DRAWING:
            study.tell(known.number, state=TrialState.FAIL)  # killed before all was drawn
    while sum(t.state not in _NOT_COUNTED for t in study.get_trials(deepcopy=False)) < config.trials:
        yield study.ask(config.distributions())


def trial_folder(out: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return out / "trials" / f"{number:04d}"
