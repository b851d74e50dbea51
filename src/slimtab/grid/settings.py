"""What a grid holds, read from YAML as a run's config is."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimtab.config import build_settings, read_yaml
from slimtab.errors import SlimtabError

_SET_BY_GRID = ("data", "run", "seed", "model.name", "table.method", "table.budget", "table.options")


@dataclass(frozen=True)
class GridMethod:
    """A row of the comparison.

    Attributes:
        method: registered name.
        name: how tables and folders call it; the method's name unless given.
        options: fields of the method's config that the budget does not choose.
        settings: settings of its runs by dotted key; they win over the grid's, and are not tuned.
    """

    method: str = ""
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GridConfig:
    """A whole comparison.

    Attributes:
        data: prepared dataset folders.
        model: network of all runs.
        methods: rows of the comparison.
        budgets: its columns, as ``"10%"`` of the full table or a size like ``"4MB"``.
        seeds: runs of each cell.
        settings: settings of all runs by dotted key, as in config.yaml.
        tune: values to try by dotted key. Each method at each budget takes the point with the lowest
            validation logloss at the first seed.
    """

    data: list[str] = field(default_factory=list)
    model: str = "deepfm"
    methods: list[GridMethod] = field(default_factory=list)
    budgets: list[str | int] = field(default_factory=list)
    seeds: int = 3
    settings: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, list[Any]] = field(default_factory=dict)


def read_grid(path: Path) -> GridConfig:
    """Read a grid.

    Raises:
        SlimtabError: on an unreadable file, an unknown key (naming the nearest), a value of the wrong type,
            or a grid that holds nothing.
    """
    values = read_yaml(path)
    entries = values.pop("methods", None) or []
    try:
        if not isinstance(entries, list):
            raise SlimtabError("'methods' must be a list of names, or of groups with the key method")
        config = dataclasses.replace(
            build_settings(GridConfig, values), methods=[_read_method(entry) for entry in entries]
        )
        _check(config)
    except SlimtabError as error:
        raise SlimtabError(f"{path}: {error}") from error
    return config


def _read_method(entry: Any) -> GridMethod:
    method = build_settings(GridMethod, {"method": entry} if isinstance(entry, str) else entry)
    if not method.method:
        raise SlimtabError("an entry of 'methods' has no key method; `slimtab methods` lists them")
    method = dataclasses.replace(method, name=method.name or method.method)
    if not re.fullmatch(r"[\w.+-]+", method.name):
        raise SlimtabError(f"'{method.name}' cannot name a folder; use letters, digits, and . + - _")
    return method


def _check(config: GridConfig) -> None:
    for key in ("data", "methods", "budgets"):
        if not getattr(config, key):
            raise SlimtabError(f"'{key}' is empty, so there is nothing to run")
    if config.settings is None or config.tune is None:
        raise SlimtabError("'settings' and 'tune' are groups of keys; leave out the empty one")
    if config.seeds < 1:
        raise SlimtabError(f"'seeds' is {config.seeds}; it must be at least 1")
    _check_twice("methods", [method.name for method in config.methods], "give one of them another name:")
    _check_twice("data", [Path(folder).name for folder in config.data], "rename one of the folders")
    _check_twice("budgets", [str(budget) for budget in config.budgets], "leave one out")
    for settings in (config.settings, config.tune, *(method.settings for method in config.methods)):
        for key in settings:
            if key in _SET_BY_GRID or key.startswith("table.options."):
                raise SlimtabError(f"'{key}' is set by the grid itself; see data, model, methods and budgets")
    if "table.dim" in config.tune:
        raise SlimtabError("'table.dim' cannot be tuned, as a budget is a share of one width; make two grids")
    empty = [key for key, points in config.tune.items() if not points]
    if empty:
        raise SlimtabError(f"'tune' has no values for '{empty[0]}'")


def _check_twice(key: str, names: list[str], remedy: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SlimtabError(f"two entries of '{key}' are called '{name}'; {remedy}")
