"""What a sweep varies, read from YAML as a run's config is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from slimtab.config import RunConfig, build_settings, load_config, read_yaml
from slimtab.errors import SlimtabError, nearest

# What may be sought, on validation rows, and which way is better.
OBJECTIVES = {"logloss": "minimize", "auc": "maximize", "bytes": "minimize"}
_RANGE = ("low", "high", "log", "step")
_SET_BY_SWEEP = ("data", "run", "seed")


@dataclass(frozen=True)
class SweepConfig:
    """A whole sweep.

    Attributes:
        data: prepared dataset folder.
        objectives: one or two of ``logloss``, ``auc`` (both on validation rows) and ``bytes`` (served).
        space: what is varied, by dotted key: a list of values to choose from, or a range with the keys
            ``low`` and ``high``, and perhaps ``log`` or ``step``.
        settings: settings of all runs by dotted key, as in config.yaml.
        trials: runs in all.
        seed: of the sampler, and of every run.
    """

    data: str = ""
    objectives: list[str] = field(default_factory=lambda: ["logloss"])
    space: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    trials: int = 50
    seed: int = 0

    @property
    def directions(self) -> dict[str, str]:
        """``minimize`` or ``maximize``, of each objective."""
        return {name: OBJECTIVES[name] for name in self.objectives}

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return what Optuna draws each varied setting from."""
        return {key: _distribution(key, choices) for key, choices in self.space.items()}

    def run_config(self, drawn: Mapping[str, Any], folder: str) -> RunConfig:
        """Return the config of the run in ``folder`` for what was drawn.

        Raises:
            SlimtabError: on an unknown key or a value of the wrong type.
        """
        varied = {key: _value(self.space[key], value) for key, value in drawn.items()}
        own = {"data": self.data, "run": folder, "seed": self.seed}
        return load_config(None, {**self.settings, **varied, **own})


def read_sweep(path: Path) -> SweepConfig:
    """Read a sweep.

    Raises:
        SlimtabError: on an unreadable file, an unknown key (naming the nearest), a value of the wrong type,
            or a space that holds nothing.
    """
    try:
        config = build_settings(SweepConfig, read_yaml(path))
        _check(config)
    except SlimtabError as error:
        raise SlimtabError(f"{path}: {error}") from error
    return config


def _check(config: SweepConfig) -> None:
    if not config.data:
        raise SlimtabError("'data' is missing; name a folder made by `slimtab prep`")
    if not config.space:
        raise SlimtabError("'space' is empty, so there is nothing to vary")
    if config.trials < 1:
        raise SlimtabError(f"'trials' is {config.trials}; it must be at least 1")
    for name in config.objectives:
        if name not in OBJECTIVES:
            raise SlimtabError(f"no objective '{name}'{nearest(name, OBJECTIVES)}")
    if not 1 <= len(set(config.objectives)) == len(config.objectives) <= 2 or config.objectives == ["bytes"]:
        raise SlimtabError("'objectives' takes logloss or auc, and bytes beside it where a front is sought")
    for key in (*config.space, *config.settings):
        if key in _SET_BY_SWEEP:
            raise SlimtabError(f"'{key}' is set by the sweep itself; leave it out of space and settings")
    for key in config.space.keys() & config.settings.keys():
        raise SlimtabError(f"'{key}' stands in space and in settings; leave one out")
    for key, distribution in config.distributions().items():
        for value in _ends(distribution):
            config.run_config({key: value}, "")


def _distribution(key: str, choices: Any) -> BaseDistribution:
    if isinstance(choices, list) and choices:
        return CategoricalDistribution([_label(value) for value in choices])
    if isinstance(choices, dict) and {"low", "high"} <= choices.keys() <= set(_RANGE):
        numbers = [choices[name] for name in _RANGE if name != "log" and name in choices]
        whole = all(isinstance(number, int) for number in numbers)
        if all(isinstance(number, int | float) for number in numbers):
            kind = IntDistribution if whole else FloatDistribution
            try:
                return kind(**choices)
            except (TypeError, ValueError) as error:
                raise SlimtabError(f"space of '{key}': {error}") from error
    raise SlimtabError(
        f"space of '{key}' must be a list of values, or a range such as {{low: 0.001, high: 0.1, log: true}}"
    )


def _label(value: Any) -> Any:
    """Return what stands for a value in a study, which takes plain ones only."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def _value(choices: Any, label: Any) -> Any:
    """Return the value that a label stands for."""
    if isinstance(choices, list):
        return next(value for value in choices if _label(value) == label)
    return label


def _ends(distribution: BaseDistribution) -> list[Any]:
    """Return the values that show whether a setting takes what is drawn."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]
