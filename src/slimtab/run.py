"""A run: a config in, a run folder out. What `slimtab train` does, callable from Python."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import slimtab
from slimtab.beginning import begin_from
from slimtab.collection import TableCollection
from slimtab.config import RunConfig, first_difference, load_config
from slimtab.data.loader import Loader
from slimtab.data.vocabulary import load_counts
from slimtab.errors import SlimtabError
from slimtab.files import written
from slimtab.models.base import CTRModel, build_model
from slimtab.reporting.features import feature_figures
from slimtab.reporting.progress import ProgressBar
from slimtab.reporting.projector import write_projector
from slimtab.reporting.tensorboard import TensorBoard, write_outcome
from slimtab.schema import Schema
from slimtab.serving.freeze import freeze
from slimtab.serving.lookup import lookup_speed
from slimtab.sizes import Budget
from slimtab.tables.base import FrozenTable
from slimtab.training.allocator import keep_freed_memory
from slimtab.training.device import device_name, peak_device_memory
from slimtab.training.engine.base import Engine
from slimtab.training.engine.group import under_torchrun
from slimtab.training.engine.start import engine_for
from slimtab.training.metrics import Metrics
from slimtab.training.observer import Observer
from slimtab.training.peak import peak_memory
from slimtab.training.stepping import table_of
from slimtab.training.trainer import Trainer


@dataclass(frozen=True)
class Fitted:
    """A run that is trained, and no more.

    Attributes:
        trainer: whose model has the best weights.
        valid: metrics of the best validation.
    """

    trainer: Trainer
    valid: Metrics


def train_run(
    config: RunConfig,
    observers: Sequence[Observer] = (),
    choose: Callable[[CTRModel, str], None] | None = None,
    source: Path | None = None,
) -> dict[str, Any]:
    """Train, score the test rows once, freeze, and write the run folder.

    An unfinished run in the folder is continued from its last checkpoint and ends as it would have;
    a finished one is returned as it is.

    Args:
        config: settings; ``data`` and ``run`` are needed.
        observers: told about steps and validations, beside the progress bar and TensorBoard.
        choose: see :class:`~slimtab.training.trainer.Trainer`.
        source: folder of a run of ``full`` that a new run begins from; see
            :func:`~slimtab.beginning.begin_from`.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        SlimtabError: when the folder holds a run with other settings or another process trains it, or
            anything is wrong with the settings.
    """
    data, folder = _folders(config)
    schema = Schema.load(data / "schema.json")
    with engine_for(config, schema) as engine:
        finished = engine.lead(lambda: _finished(config, folder, schema))
        if finished is not None:
            return finished
        with engine.locked(folder):
            started = time.monotonic()
            finished = engine.lead(lambda: _finished(config, folder, schema))
            if finished is not None:  # by whoever held the lock before
                return finished
            if source is not None and not _is_begun(folder):
                _begin(config, folder, schema)
                begin_from(source, config, schema)
            fitted = _fit(config, schema, engine, observers, choose)
            return _finish(config, schema, engine, fitted, started)


def fit_run(config: RunConfig, start: Callable[[CTRModel], None] | None = None) -> Fitted:
    """Train in a run folder, or go on there, and look at no test row: for those who choose among runs.

    Args:
        config: settings.
        start: puts weights into the new model to which its first stage has nothing to add.

    Raises:
        SlimtabError: as :func:`train_run` does.
    """
    data, folder = _folders(config)
    schema = Schema.load(data / "schema.json")
    if under_torchrun():
        raise SlimtabError(
            "runs that are compared are trained in one process each; start it without torchrun"
        )
    _finished(config, folder, schema)  # for its checks
    engine = Engine(config.training.device)
    with engine.locked(folder):
        fitted = _fit(config, schema, engine, start=start)
    fitted.trainer.model.cpu()  # where those who choose look at it
    return fitted


def _fit(
    config: RunConfig,
    schema: Schema,
    engine: Engine,
    observers: Sequence[Observer] = (),
    choose: Callable[[CTRModel, str], None] | None = None,
    start: Callable[[CTRModel], None] | None = None,
) -> Fitted:
    data, folder = _folders(config)
    engine.lead(lambda: _begin(config, folder, schema))
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    keep_freed_memory()
    size = config.training.batch_size
    train = _loader(config, engine, "train", size, shuffle=True)
    torch.manual_seed(config.seed)
    tables = TableCollection.build(
        schema.features,
        config.table.dim,
        config.table.method,
        config.table.budget,
        config.table.options,
        engine.make_rows(config.optimizer, len(train)),
        config.table.init_std,
        counts=load_counts(data, schema),
        rules=config.table.rules,
        sized=_sized(engine, folder / "checkpoints"),
    )
    model = build_model(config.model.name, tables, len(schema.numerics), config.model.options)
    engine.begin(model, folder)
    watching = [ProgressBar(), TensorBoard(folder / "tb", table_of(model)), *observers]
    trainer = Trainer(
        model,
        train,
        _loader(config, engine, "valid", 4 * size, shuffle=False),
        config,
        folder / "checkpoints",
        watching if engine.leads else (),
        _loader(config, engine, "valid", size, shuffle=True),
        choose,
        engine,
    )
    if start is not None:
        start(model)
    return Fitted(trainer, trainer.fit(trained=start is not None))


def _loader(config: RunConfig, engine: Engine, split: str, batch_size: int, shuffle: bool) -> Loader:
    return Loader(
        Path(config.data),
        split,
        batch_size,
        shuffle=shuffle,
        seed=config.seed,
        share=engine.share,
        place=engine.place,
    )


def _finish(
    config: RunConfig, schema: Schema, engine: Engine, fitted: Fitted, started: float
) -> dict[str, Any]:
    """Score the test rows, and let the leading process do the rest."""
    folder = Path(config.run)
    model = fitted.trainer.model
    rows = _loader(config, engine, "test", 4 * config.training.batch_size, shuffle=False)
    test = engine.evaluate(model, rows)
    model.cpu()  # what is served is made there
    engine.whole(model, folder)
    return engine.lead(lambda: _write_outcome(config, schema, fitted, test, started))


def _write_outcome(
    config: RunConfig, schema: Schema, fitted: Fitted, test: Metrics, started: float
) -> dict[str, Any]:
    """Freeze, measure, and write down all of it."""
    data, folder = _folders(config)
    trainer, model = fitted.trainer, fitted.trainer.model
    frozen = model.tables.freeze().eval()  # once: methods that code their rows take a while
    metrics = _metrics(config, schema, data, fitted, frozen, test, time.monotonic() - started)
    freeze(model, frozen, data, folder / "frozen", metrics)
    metrics |= {"lookup": lookup_speed(frozen), "peak_memory_bytes": peak_memory()}
    device = trainer.engine.device
    metrics |= {"device": device_name(device), "peak_device_bytes": peak_device_memory(device)}
    write_outcome(folder / "tb", config, metrics, trainer.step)
    write_projector(folder / "tb", model.tables, data)
    _write_json(folder / "metrics.json", metrics)
    return metrics


def _folders(config: RunConfig) -> tuple[Path, Path]:
    if not config.data:
        raise SlimtabError(
            "no dataset folder given; name one, as in `slimtab train data/criteo --run runs/a`"
        )
    if not config.run:
        raise SlimtabError("no run folder given; add --run runs/NAME")
    return Path(config.data), Path(config.run)


def _finished(config: RunConfig, folder: Path, schema: Schema) -> dict[str, Any] | None:
    """Return the metrics of a run that is over; None for one that is not, after a look at its settings."""
    if not _is_begun(folder):
        return None
    _check_same(load_config(folder / "config.yaml", {}), config, folder)
    known = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    if known != schema.to_dict():
        raise SlimtabError(f"{config.data} has changed since {folder} was begun; choose another --run")
    if not (folder / "metrics.json").exists():
        return None
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _sized(engine: Engine, checkpoints: Path) -> tuple[str, dict[str, Any]] | None:
    """Return method and config of the tables a run goes on with: cut ones need no room for whole ones."""
    newest = engine.newest(checkpoints)
    if newest is None:
        return None
    state = newest[1]
    # In the first stage nothing was cut yet, and a run that took over another's may have its own budget.
    return (state["method"], state["table"]) if state["began"] else None


def _begin(config: RunConfig, folder: Path, schema: Schema) -> None:
    """Write down what is trained, unless a run goes on: until something was trained it may be corrected."""
    if not _is_begun(folder):
        _write_json(folder / "dataset.json", schema.to_dict())
        config.save(folder / "config.yaml")


def _is_begun(folder: Path) -> bool:
    return (folder / "config.yaml").exists() and any((folder / "checkpoints").glob("**/*.safetensors"))


def _check_same(old: RunConfig, new: RunConfig, folder: Path) -> None:
    # Where folders and weights lie does not decide the outcome: data is compared by its schema.
    difference = first_difference(old, new, ("run", "data", "training.device"))
    if difference is not None:
        raise SlimtabError(
            "{} holds a run with {}={}, not {}; choose another --run, or the old settings".format(
                folder, *difference
            )
        )


def _metrics(
    config: RunConfig,
    schema: Schema,
    data: Path,
    fitted: Fitted,
    frozen: TableCollection,
    test: Metrics,
    seconds: float,
) -> dict[str, Any]:
    trainer, table = fitted.trainer, fitted.trainer.table
    assert isinstance(frozen.table, FrozenTable)
    full = schema.full_bytes(config.table.dim)
    budget = None if config.table.budget is None else Budget.parse(config.table.budget).resolve(full)
    return {
        "run": config.run,
        "method": config.table.method if config.table.method == "auto" else table.method,
        "model": config.model.name,
        "dim": config.table.dim,
        "seed": config.seed,
        "budget_bytes": budget,
        "full_bytes": full,
        "train_bytes": trainer.train_bytes,
        "serve_bytes": frozen.table.serve_bytes(),
        "vocab_bytes": _vocabulary_bytes(schema, data),
        "checkpoint_bytes": max(_size(path) for path in (Path(config.run) / "checkpoints").glob("step-*")),
        "valid": fitted.valid.to_dict(),
        "test": test.to_dict(),
        "epochs": trainer.step / len(trainer.train_rows),
        "steps": trainer.step,
        "rows_per_second": trainer.rows_per_second,
        "wall_seconds": seconds,
        "table_stats": table.stats() | frozen.table.stats(),
        "features": feature_figures(table, frozen.table),
        "settings": _decisive(config),
        "data": {"path": config.data, "rows": schema.rows, "fingerprint": schema.fingerprint()},
        "versions": {
            "slimtab": slimtab.__version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "numpy": version("numpy"),
        },
    }


def _decisive(config: RunConfig) -> dict[str, Any]:
    """Return the settings that decide how good a run gets; runs that share them differ by their seed only."""
    settings = config.to_dict()
    for key in ("data", "run", "seed", "ranks"):
        del settings[key]
    for key in ("checkpoint_minutes", "checkpoint_steps", "log_steps", "threads", "device"):
        del settings["training"][key]
    return settings


def _vocabulary_bytes(schema: Schema, data: Path) -> int:
    """Bytes of the dictionaries from raw token to id that must be served beside the tables."""
    kept = [feature.name for feature in schema.features if feature.encoding == "vocab"]
    return sum((data / "vocab" / f"{name}.parquet").stat().st_size for name in kept)


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with written(path) as beside:
        beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
