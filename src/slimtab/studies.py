"""Optuna studies on disk: opened or made, and never one that belongs to something else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.study import Study


def open_study(place: Path | str, name: str, objectives: Mapping[str, str]) -> Study:
    """Open a study, or make it.

    Args:
        place: journal file, or an address that Optuna takes, such as ``sqlite:///sweeps.db``.
        name: of the study.
        objectives: ``maximize`` or ``minimize`` by the name of each value, which other tools show.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(place))) if isinstance(place, Path) else place,
        study_name=name,
        load_if_exists=True,
        directions=list(objectives.values()),
    )
    if not study.user_attrs:  # new, and nobody else's
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(objectives))
    return study


def differing(study: Study, belongs: Mapping[str, object]) -> str | None:
    """Return the first thing in which a study is another's than it was made for; None where it is not.

    Args:
        study: opened; a new one is marked.
        belongs: what it is of, in plain values by name.
    """
    for key, value in belongs.items():
        if key not in study.user_attrs:
            study.set_user_attr(key, value)
        elif study.user_attrs[key] != value:
            return key
    return None
