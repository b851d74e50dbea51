"""What a process does for a sweep: take a trial, train it, tell the study, until there is none left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna import TrialPruned
from optuna.study import Study
from optuna.trial import Trial, TrialState

from slimtab.errors import SlimtabError
from slimtab.run import train_run
from slimtab.sizes import format_bytes
from slimtab.sweep.settings import SweepConfig
from slimtab.sweep.study import next_trial, trial_folder, twin_of
from slimtab.training.metrics import Metrics
from slimtab.training.observer import Observer

_PATIENCE = 10  # trials that may fail beyond as many as are wanted
# A trial's number, and what became of it in a few words.
Told = Callable[[int, str], None]


def work(study: Study, config: SweepConfig, out: Path, told: Told = lambda number, outcome: None) -> None:
    """Train trials until the sweep has as many as it wants, beside whoever else works on the study.

    A trial that cannot be run, because its budget is below what its method can reach for example, fails with
    its reason and is made up for by another, until ten more have failed than are wanted.

    Raises:
        SlimtabError: when ten more trials failed than the sweep wants, naming the last reason.
    """
    while True:
        with next_trial(study, config, out) as trial:
            if trial is None:
                return
            told(trial.number, _run(study, trial, config, out))
        failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        if len(failed) >= config.trials + _PATIENCE:
            raise SlimtabError(
                f"{len(failed)} trials failed, the last: {failed[-1].user_attrs.get('reason')}"
            )


def _run(study: Study, trial: Trial, config: SweepConfig, out: Path) -> str:
    twin = twin_of(study, trial, out)
    try:
        if twin is None:
            folder = trial_folder(out, trial.number)
            watch = [_Watch(trial, config.objectives[0])] if len(config.objectives) == 1 else []
            metrics = train_run(config.run_config(trial.params, str(folder)), watch)
            values = [_objective(metrics, name) for name in config.objectives]
            attributes = {
                "run": str(folder),
                "test_auc": metrics["test"]["auc"],
                "serve_bytes": metrics["serve_bytes"],
                "share": metrics["serve_bytes"] / metrics["full_bytes"],
            }
        else:
            values, attributes = list(twin.values), {**twin.user_attrs, "same_as": twin.number}
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return "pruned"
    except SlimtabError as error:
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=TrialState.FAIL)
        return f"failed: {error}"
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    study.tell(trial, values)
    figures = ", ".join(_figure(n, v) for n, v in zip(config.objectives, values, strict=True))
    return figures + ("" if twin is None else f", as trial {twin.number}")


def _figure(name: str, value: float) -> str:
    return format_bytes(int(value)) if name == "bytes" else f"{name} {value:.4f}"


def _objective(metrics: dict[str, Any], name: str) -> float:
    return float(metrics["serve_bytes"] if name == "bytes" else metrics["valid"][name])


class _Watch(Observer):
    """Reports validations to the study, and stops a run that has no hope."""

    def __init__(self, trial: Trial, objective: str) -> None:
        self.trial, self.objective = trial, objective
        self.best: float | None = None
        self.validations = 0

    def on_validation(self, step: int, metrics: Metrics, best: bool) -> None:
        """Report the best so far: a run is judged by its best validation."""
        if best or self.best is None:
            self.best = getattr(metrics, self.objective)
        self.trial.report(self.best, self.validations)
        self.validations += 1
        if self.trial.should_prune():
            raise TrialPruned
