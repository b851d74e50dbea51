"""What a sweep found: a table, a CSV file, plots, and the config of the best."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from slimtab.files import written
from slimtab.sweep.settings import SweepConfig

matplotlib.use("Agg")

_SHOWN = 10


def ranking(study: Study, config: SweepConfig) -> list[FrozenTrial]:
    """Return what was found: the best trials of one objective, or the front of two from small to large."""
    if len(config.objectives) == 2:
        distinct = {tuple(trial.values): trial for trial in reversed(study.best_trials)}
        return sorted(distinct.values(), key=lambda trial: trial.values[-1])
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    done = [trial for trial in done if "same_as" not in trial.user_attrs]
    sign = 1 if config.directions[config.objectives[0]] == "minimize" else -1
    return sorted(done, key=lambda trial: sign * trial.values[0])[:_SHOWN]


def rows(trials: list[FrozenTrial], config: SweepConfig) -> list[list[str]]:
    """Return a header, and a line per trial: its objectives on validation rows, its size, what was drawn."""
    lines = [["trial", *(f"valid {n}" for n in config.objectives if n != "bytes"), "of full", *config.space]]
    for trial in trials:
        values = zip(config.objectives, trial.values, strict=True)
        lines.append(
            [
                str(trial.number),
                *(f"{value:.5f}" for name, value in values if name != "bytes"),
                f"{trial.user_attrs['share']:.1%}",
                *(_short(trial.params[key]) for key in config.space),
            ]
        )
    return lines


def write_report(study: Study, config: SweepConfig, out: Path) -> list[FrozenTrial]:
    """Write ``trials.csv``, plots, and ``best.yaml`` for one objective; return what was found."""
    trials = study.get_trials(deepcopy=False)
    with written(out / "trials.csv") as beside, beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", *config.objectives, "share", "test_auc", *config.space, "note"])
        for trial in trials:
            known = trial.user_attrs
            table.writerow(
                [
                    trial.number,
                    trial.state.name.lower(),
                    *(trial.values or [""] * len(config.objectives)),
                    known.get("share", ""),
                    known.get("test_auc", ""),
                    *(trial.params.get(key, "") for key in config.space),
                    known.get("reason", known.get("same_as", "")),
                ]
            )
    found = ranking(study, config)
    if found and len(config.objectives) == 1:
        config.run_config(found[0].params, "").save(out / "best.yaml")
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) > 1:
        _plot(study, config, out)
    return found


def _plot(study: Study, config: SweepConfig, out: Path) -> None:
    from optuna.visualization import matplotlib as plots

    if len(config.objectives) == 2:
        pictures: dict[str, Any] = {
            "front": lambda: plots.plot_pareto_front(study, target_names=config.objectives)
        }
    else:
        pictures = {
            "history": lambda: plots.plot_optimization_history(study, target_name=config.objectives[0])
        }
        if len(config.space) > 1:
            pictures["importance"] = lambda: plots.plot_param_importances(study)
    for name, draw in pictures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            axes = draw()
        axes.figure.set_size_inches(8, 5)
        with written(out / f"{name}.png") as beside:
            axes.figure.savefig(beside, format="png", dpi=120, bbox_inches="tight")
        matplotlib.pyplot.close(axes.figure)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
