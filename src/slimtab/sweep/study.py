"""The study of a sweep: where it is kept, which trial is next, and that no two processes take the same."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.studies import differing, open_study
from slimtab.sweep.settings import SweepConfig

_NOT_COUNTED = (TrialState.FAIL, TrialState.WAITING)  # made up for, and not begun


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
    for trial in _candidates(study, config, out):
        with _lock_of(trial.number, out) as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                continue  # it was ended between the look and the lock
            yield trial
            return
    yield None


def _candidates(study: Study, config: SweepConfig, out: Path) -> Iterator[Trial]:
    with _drawing(out):  # whoever draws has drawn all: what is not complete a killed process left
        left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for known in left:
            if known.params.keys() != config.space.keys():
                study.tell(known.number, state=TrialState.FAIL)
    for known in left:
        if known.params.keys() == config.space.keys():
            yield Trial(study, known._trial_id)
    while True:
        with _drawing(out):
            if sum(t.state not in _NOT_COUNTED for t in study.get_trials(deepcopy=False)) >= config.trials:
                return
            trial = study.ask(config.distributions())
        yield trial


@contextmanager
def _drawing(out: Path) -> Iterator[None]:
    """Let one process at a time count the trials and draw one, or two would both draw the last."""
    with (out / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def twin_of(study: Study, trial: Trial, out: Path) -> FrozenTrial | None:
    """Return a finished trial with the same settings, where there is one: nothing is trained twice.

    An earlier one that is under way in another process is waited for.
    """
    for known in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
        if known.params == trial.params and (known.state.is_finished() or known.number < trial.number):
            with _lock_of(known.number, out) as held:
                fcntl.flock(held, fcntl.LOCK_EX)
            ended = study.get_trials(deepcopy=False)[known.number]
            if ended.state == TrialState.COMPLETE:
                return ended
    return None


def _lock_of(number: int, out: Path) -> BinaryIO:
    folder = trial_folder(out, number)
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "lock").open("wb")


def trial_folder(out: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return out / "trials" / f"{number:04d}"
