"""Freezing: a trained model becomes a folder that serves it, with tables of exactly the claimed size."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import slimtab
from slimtab.collection import TableCollection
from slimtab.data.encode import Encoder
from slimtab.errors import SlimtabError
from slimtab.models.base import CTRModel, build_model
from slimtab.tables.base import EmbeddingTable
from slimtab.tables.fitted import empty_table
from slimtab.training.checkpoint import read_tensors, write_tensors


def freeze(model: CTRModel, frozen: TableCollection, data: Path, out: Path, card: Mapping[str, Any]) -> None:
    """Write ``tables.safetensors``, ``dense.safetensors``, ``encoder/`` and ``model.json`` under ``out``.

    Args:
        model: a trained model.
        frozen: its tables, frozen.
        data: the dataset folder it was trained on, for the encoder.
        out: folder to make; an earlier one is replaced only when the new one is whole.
        card: what to say of the model (bytes, metrics), kept in ``model.json``.
    """
    table = model.tables.table
    assert isinstance(table, EmbeddingTable)
    config = dataclasses.asdict(table.config)
    write_frozen(model, frozen, table.method, config, Encoder.load(data), out, card)


def write_frozen(
    model: CTRModel,
    frozen: TableCollection,
    method: str,
    config: Mapping[str, Any],
    encoder: Encoder,
    out: Path,
    card: Mapping[str, Any],
) -> None:
    """Write a frozen folder as :func:`freeze` does.

    Args:
        model: whose dense network is served.
        frozen: its tables.
        method: what the frozen table is rebuilt as; see :func:`~slimtab.tables.fitted.empty_table`.
        config: its settings, as plain values.
        encoder: turns raw rows into the model's batches.
        out: folder to make; an earlier one is replaced only when the new one is whole.
        card: what to say of the model.
    """
    beside = out.with_name(out.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write_tensors(beside / "tables.safetensors", frozen.state_dict(), {})
    write_tensors(beside / "dense.safetensors", _dense_state(model), {})
    encoder.save(beside / "encoder")
    build = {
        "model": model.name,
        "model_options": dataclasses.asdict(model.config),
        "method": method,
        "table_config": config,
        "dim": model.tables.dim,
        "schema_fingerprint": encoder.schema.fingerprint(),
        "slimtab": slimtab.__version__,
    }
    (beside / "model.json").write_text(json.dumps({**card, **build}, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)


def load_frozen(folder: Path) -> tuple[CTRModel, Encoder]:
    """Return the frozen model in eval mode, and the encoder that turns raw rows into its batches.

    Raises:
        SlimtabError: when a file is missing, damaged, or belongs to other columns.
    """
    try:
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlimtabError(
            f"no frozen model at {folder} ({error}); `slimtab train` makes one when it ends"
        ) from error
    encoder = Encoder.load(folder / "encoder")
    schema = encoder.schema
    if schema.fingerprint() != card["schema_fingerprint"]:
        raise SlimtabError(f"{folder}/encoder belongs to other columns than the model; freeze the run again")
    features = (*schema.one_hot, *schema.multi_hot)
    table = empty_table(card["method"], card["table_config"], features, card["dim"])
    tables = TableCollection(table, features, card["dim"], check_ids="oov")
    model = build_model(card["model"], tables, len(schema.numerics), _tuples(card["model_options"]))
    _load_strictly(tables, folder / "tables.safetensors")
    _load_strictly(
        model, folder / "dense.safetensors", also={f"tables.{k}": v for k, v in tables.state_dict().items()}
    )
    return model.eval(), encoder


def _dense_state(model: CTRModel) -> dict[str, Any]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith("tables.")}


def _load_strictly(module: nn.Module, path: Path, also: Mapping[str, Any] | None = None) -> None:
    tensors, _ = read_tensors(path)
    try:
        module.load_state_dict({**tensors, **(also or {})})
    except RuntimeError as error:
        raise SlimtabError(f"{path} does not fit this model ({' '.join(str(error).split())})") from error


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn JSON's lists back into the tuples that configs hold."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
