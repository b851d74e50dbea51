"""The settings of a run: typed dataclasses, read from YAML with ``key=value`` overrides on top.

This module imports neither torch nor slimtab's heavy parts, so that commands can show help at once.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import yaml

from slimtab.errors import SlimtabError, nearest
from slimtab.files import written

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class ModelSettings:
    """The network.

    Attributes:
        name: ``deepfm``, ``dlrm`` or ``dcn``.
        options: fields of that model's config, such as ``mlp`` or ``dropout``.
    """

    name: str = "deepfm"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """A method for some of the features.

    Attributes:
        method: how their tables are made small.
        min_ids: it takes features of at least so many ids.
        options: fields of the method's config that the budget does not choose.
        features: names of those it takes; none for all.
        budget: its share of the bytes, ``"10%"`` of these features' full tables or a size; null for what the
            budget of all leaves.
    """

    method: str
    min_ids: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)
    budget: str | int | None = None


@dataclass(frozen=True)
class TableSettings:
    """The embedding tables.

    Attributes:
        method: how they are made small.
        budget: serving bytes, ``"10%"`` of the full table or a size like ``"4MB"``; null allows all.
        dim: embedding width.
        init_std: standard deviation each coordinate starts with.
        options: fields of the method's config that the budget does not choose.
        rules: methods for some of the features; the first rule that fits a feature takes it, and ``method``
            those that none does. The budget is one for all.
    """

    method: str = "full"
    budget: str | int | None = None
    dim: int = 16
    init_std: float = 0.01
    options: dict[str, Any] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights move.

    Attributes:
        rows: optimizer fused into the tables' rows.
        rows_lr: its learning rate.
        rows_decay: decay of every row, per epoch: over one pass of the training rows, a row that nothing
            touches shrinks to e^(−rows_decay) of itself. It is spread evenly over the steps, and falls with
            the learning rate. Per epoch, not per step, so that it means the same for any number of rows.
        lr: learning rate of the dense network (AdamW).
        weight_decay: decoupled decay of the dense network.
    """

    rows: Literal["rowwise_adamax", "adam", "rowwise_adagrad"] = "rowwise_adamax"
    rows_lr: float = 1e-3
    rows_decay: float = 2.0
    lr: float = 5e-4
    weight_decay: float = 0.0


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how.

    Attributes:
        epochs: at most this many passes over the training rows.
        batch_size: rows per step.
        eval_steps: validate every so many steps; null validates after each epoch.
        patience: validations in a row without a better logloss that are borne. At the next one training goes
            back to the best weights, and learning rates begin to fall.
        cooldown: validations that a fall of both learning rates takes, to a tenth or to nothing; half of
            training at most.
        checkpoint_minutes: minutes between checkpoints; one is also written at each validation.
        checkpoint_steps: steps between checkpoints, beside the minutes; null for none.
        log_steps: steps between points in TensorBoard.
        threads: torch threads; null leaves torch's choice.
        device: ``cpu``, ``cuda``, one of several as ``cuda:1``, or ``auto``: a GPU where torch sees one.
            Ranks take a GPU each.
    """

    epochs: int = 20
    batch_size: int = 1024
    eval_steps: int | None = None
    patience: int = 2
    cooldown: int = 1
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int | None = None
    log_steps: int = 20
    threads: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class RanksSettings:
    """How a training is spread when ``torchrun`` starts it as several ranks; nothing of it matters to one.

    Attributes:
        shard_from: a store of rows of at least this size is spread over the ranks, which needs
            ``optimizer.rows=rowwise_adagrad``; smaller ones stand on every rank.
    """

    shard_from: str | int = "16MB"


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's outcome. ``config.yaml`` in a run folder holds one, resolved.

    Attributes:
        data: prepared dataset folder.
        run: run folder.
        seed: of start values, dropout and shuffling.
        model: the network.
        table: the embedding tables.
        optimizer: how weights move.
        training: how long and how.
        ranks: how it is spread over ranks.
    """

    data: str = ""
    run: str = ""
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    table: TableSettings = field(default_factory=TableSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    ranks: RanksSettings = field(default_factory=RanksSettings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as :func:`build_config` takes them."""
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        """Write YAML at ``path``, whole or not at all."""
        with written(path) as beside:
            beside.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def load_config(
    path: Path | None, overrides: Mapping[str, Any], assignments: Iterable[str] = ()
) -> RunConfig:
    """Read a YAML file and lay overrides over it.

    Args:
        path: YAML file, or None to begin from the defaults.
        overrides: values by dotted key (``{"table.method": "hash"}``).
        assignments: ``key=value`` texts with dotted keys and YAML values; they win over all else.

    Raises:
        SlimtabError: on an unreadable file, an unknown key (naming the nearest), a value of the wrong type.
    """
    values = {} if path is None else read_yaml(path)
    for key, value in overrides.items():
        _assign(values, key, value)
    for text in assignments:
        _assign(values, *read_assignment(text, "optimizer.lr=0.001"))
    return build_config(values)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML file with their values.

    Raises:
        SlimtabError: when the file cannot be read, or holds something else than keys.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SlimtabError(f"config file {path} cannot be read: {reason}") from error
    if not isinstance(values, dict):
        raise SlimtabError(
            f"config file {path} holds no keys; see config.yaml in any run folder for the form"
        )
    return values


def read_assignment(text: str, example: str) -> tuple[str, Any]:
    """Split ``key=value`` into the key and the value as YAML reads it.

    Raises:
        SlimtabError: when it has another form; ``example`` shows the right one.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise SlimtabError(f"'{text}' is not of the form key=value, such as {example}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SlimtabError(f"'{text}': what stands after = cannot be read; quote it as YAML does") from error


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested plain values by dotted key."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = list(value) if isinstance(value, tuple) else value
    return result


def first_difference(old: RunConfig, new: RunConfig, but: tuple[str, ...]) -> tuple[str, Any, Any] | None:
    """Return the first dotted key in which two configs differ, and both values; None where they agree.

    Args:
        old: one of them.
        new: the other.
        but: what may differ: keys, or what they begin with.
    """
    before, now = flat(old.to_dict()), flat(new.to_dict())
    for key in sorted(before.keys() | now.keys()):
        if not key.startswith(but) and before.get(key) != now.get(key):
            return key, before.get(key), now.get(key)
    return None


def build_config(values: Mapping[str, Any]) -> RunConfig:
    """Turn plain values into a :class:`RunConfig`, checking every key and type.

    Raises:
        SlimtabError: on an unknown key or a value of the wrong type.
    """
    config = build_settings(RunConfig, values)
    _check_values(config, "")
    return config


def build_settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Turn plain values into a dataclass, whose fields all have defaults, checking every key and type.

    Raises:
        SlimtabError: on an unknown key or a value of the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    _check_keys(kind, values, "")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=kind, default=kind())
    try:
        # A copy: it replaces the items of lists by its own, in the caller's lists.
        parsed = parser.parse_object({"config": copy.deepcopy(dict(values))})
        settings = parser.instantiate_classes(parsed).config
    except (ArgumentError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SlimtabError("config: " + " ".join(lines[:3]).replace("config.", "")) from error
    assert isinstance(settings, kind)
    return settings


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SlimtabError(f"config key '{key}': '{parent}' is a value, not a group of keys")
    values[last] = value


def _check_keys(settings: type[Any], values: Any, where: str) -> None:
    if not isinstance(values, Mapping):
        raise SlimtabError(f"config key '{where.rstrip('.')}' is a group of keys, not a value")
    types = get_type_hints(settings)
    for key, value in values.items():
        if key not in types:
            raise SlimtabError(f"config has no key '{where}{key}'{nearest(str(key), types)}")
        if dataclasses.is_dataclass(types[key]):
            _check_keys(types[key], value, f"{where}{key}.")
        kinds = get_args(types[key])
        if isinstance(value, list) and kinds and dataclasses.is_dataclass(kinds[0]):
            for number, item in enumerate(value):
                _check_keys(kinds[0], item, f"{where}{key}.{number}.")  # type: ignore[arg-type]


# The least value of each number; anything below would divide by zero or never end, far from its cause.
_LEAST = {
    "seed": 0,
    "table.dim": 1,
    "table.init_std": 0,
    "optimizer.rows_decay": 0,
    "optimizer.lr": 0,
    "optimizer.weight_decay": 0,
    "training.epochs": 1,
    "training.batch_size": 1,
    "training.eval_steps": 1,
    "training.patience": 0,
    "training.cooldown": 1,
    "training.checkpoint_minutes": 0,
    "training.checkpoint_steps": 1,
    "training.log_steps": 1,
    "training.threads": 1,
}
_ABOVE_ZERO = ("optimizer.rows_lr",)


def _check_values(settings: Any, where: str) -> None:
    for name, kind in get_type_hints(type(settings)).items():
        key, value = where + name, getattr(settings, name)
        if dataclasses.is_dataclass(value):
            _check_values(value, f"{key}.")
        elif value is None:
            if type(None) not in get_args(kind):
                raise SlimtabError(f"config key '{key}' needs a value, not null")
        elif key in _LEAST and not value >= _LEAST[key]:
            raise SlimtabError(f"config key '{key}' is {value}; it must be at least {_LEAST[key]}")
        elif key in _ABOVE_ZERO and not value > 0:
            raise SlimtabError(f"config key '{key}' is {value}; it must be above 0")
