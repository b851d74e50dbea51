"""Freezing: a trained model becomes a folder that serves it, with tables of exactly the claimed size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import slimtab
from slimtab.collection import TableCollection
from slimtab.data.encode import Encoder
from slimtab.errors import SlimtabError
from slimtab.files import written_folder
from slimtab.models.base import CTRModel, build_model
from slimtab.schema import Feature, Schema
from slimtab.serving.card import load_encoder, read_card
from slimtab.tables.base import EmbeddingTable, FrozenTable
from slimtab.tables.fitted.base import empty_table
from slimtab.training.checkpoint import read_tensors, write_tensors

_TABLES = "tables."  # how a model calls its tables
_ALIGNED = 16  # bytes


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
    build = {
        "model": model.name,
        "model_options": dataclasses.asdict(model.config),
        "method": method,
        "table_config": config,
        "dim": model.tables.dim,
        "schema_fingerprint": encoder.schema.fingerprint(),
        "slimtab": slimtab.__version__,
    }
    with written_folder(out) as beside:
        write_tensors(beside / "tables.safetensors", frozen.state_dict(), {})
        write_tensors(beside / "dense.safetensors", {**_dense_state(model), **_constants(frozen)}, {})
        encoder.save(beside / "encoder")
        text = json.dumps({**card, **build}, indent=1) + "\n"
        (beside / "model.json").write_text(text, encoding="utf-8")


def load_frozen(folder: Path) -> tuple[CTRModel, Encoder]:
    """Return the frozen model in eval mode, and the encoder that turns raw rows into its batches.

    Raises:
        SlimtabError: when a file is missing, damaged, or belongs to other columns.
    """
    card = read_card(folder)
    encoder = load_encoder(folder, card)
    return load_model(folder, card, encoder.schema), encoder


def load_model(folder: Path, card: Mapping[str, Any], schema: Schema) -> CTRModel:
    """Return the frozen model in eval mode.

    Raises:
        SlimtabError: when a file is missing or damaged.
    """
    model = map_model(folder, card, schema)
    # A file may put tensors anywhere, and rows of 16 bytes are read by instructions that need an address
    # divisible by 16. Then all are copied: as long as one is mapped, the others' pages are held with it.
    if any(buffer.data_ptr() % _ALIGNED for buffer in model.tables.buffers()):
        for module in model.tables.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.clone())
    return model


def map_model(folder: Path, card: Mapping[str, Any], schema: Schema) -> CTRModel:
    """Return the model as :func:`load_model` does, to be exported but not run: its tables take no memory.

    Raises:
        SlimtabError: when a file is missing or damaged.
    """
    features = (*schema.one_hot, *schema.multi_hot)
    dense, _ = read_tensors(folder / "dense.safetensors")
    constants = {name: dense.pop(name) for name in list(dense) if name.startswith(_TABLES)}
    tables = TableCollection(_shapes(card, features, constants), features, card["dim"], check_ids="oov")
    model = build_model(card["model"], tables, len(schema.numerics), _tuples(card["model_options"]))
    _put(tables, folder / "tables.safetensors", read_tensors(folder / "tables.safetensors")[0])
    also = {_TABLES + name: value for name, value in tables.state_dict().items()}
    _put(model, folder / "dense.safetensors", dense | also)
    return model.eval().requires_grad_(False)


def _dense_state(model: CTRModel) -> dict[str, Any]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith(_TABLES)}


def _constants(frozen: TableCollection) -> dict[str, Tensor]:
    """Return what a frozen table knows from config and schema: small, and no part of the claim."""
    kept = frozen.table.state_dict().keys()
    return {
        f"{_TABLES}table.{name}": value for name, value in frozen.table.named_buffers() if name not in kept
    }


def _shapes(
    card: Mapping[str, Any], features: Sequence[Feature], constants: dict[str, Tensor]
) -> FrozenTable:
    """Return the frozen table with its constants and without its values, which the file maps into memory.

    Built on the meta device, for otherwise it would for a moment be as large as it was in training.
    """
    with torch.device("meta"):
        table = empty_table(card["method"], card["table_config"], features, card["dim"])
    kept = table.state_dict().keys()
    for name, _ in [pair for pair in table.named_buffers() if pair[0] not in kept]:
        owner, _, leaf = name.rpartition(".")
        if f"{_TABLES}table.{name}" not in constants:
            raise SlimtabError(f"the frozen model lacks '{name}' of its tables; freeze the run again")
        setattr(table.get_submodule(owner), leaf, constants[f"{_TABLES}table.{name}"])
    return table


def _put(module: nn.Module, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Make tensors read from ``path`` the module's own, without a copy."""
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise SlimtabError(f"{path} does not fit this model ({' '.join(str(error).split())})") from error


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn JSON's lists back into the tuples that configs hold."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
