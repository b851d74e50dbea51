"""Scoring raw rows with a frozen model, in the file's order and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from slimtab.batch import Batch, Ragged
from slimtab.data.readers import RawRows, Reject, read_raw
from slimtab.errors import SlimtabError
from slimtab.files import written
from slimtab.schema import Schema
from slimtab.serving.arrays import to_arrays
from slimtab.serving.freeze import load_frozen
from slimtab.training.metrics import Metrics, score

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Scored:
    """A part of a raw file, scored.

    Attributes:
        probability: of a click, for each well-formed row [M] float64.
        label: of each well-formed row [M], or None where the file has no labels.
        accepted: for each row of the file in order, whether it is well-formed [N] bool.
        rejects: the malformed rows.
    """

    probability: NDArray[np.float64]
    label: NDArray[np.float64] | None
    accepted: NDArray[np.bool_]
    rejects: list[Reject]


def evaluate_raw(frozen: Path, raw: Path) -> tuple[Metrics, list[Reject]]:
    """Return metrics of a frozen model on labelled raw rows, and the malformed rows left out.

    Raises:
        SlimtabError: when the file has no labels, no usable row, or cannot be read.
    """
    parts = list(_scored(frozen, raw, labelled=True))
    labels = np.concatenate([part.label for part in parts if part.label is not None] or [np.empty(0)])
    if not len(labels):
        raise SlimtabError(f"{raw} holds no well-formed row to evaluate on")
    metrics = score(labels, np.concatenate([part.probability for part in parts]))
    return metrics, [reject for part in parts for reject in part.rejects]


def predict_raw(frozen: Path, raw: Path, out: Path) -> tuple[int, list[Reject]]:
    """Write a Parquet file with ``row`` (1-based) and ``probability``, one line for each row of ``raw``.

    A malformed row has a null probability, so lines of both files correspond.

    Returns:
        The number of rows, and the malformed ones.

    Raises:
        SlimtabError: when ``raw`` cannot be read or ``out`` cannot be written; an earlier ``out`` then stays.
    """
    schema = pa.schema([("row", pa.int64()), ("probability", pa.float64())])
    rows, rejects = 0, []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with written(out) as beside, pq.ParquetWriter(beside, schema) as writer:
            for part in _scored(frozen, raw, labelled=None):
                column = np.full(len(part.accepted), np.nan)
                column[part.accepted] = part.probability
                numbers = np.arange(rows + 1, rows + len(column) + 1)
                writer.write_table(pa.table([numbers, pa.array(column, mask=~part.accepted)], schema=schema))
                rows += len(column)
                rejects += part.rejects
    except OSError as error:
        raise SlimtabError(
            f"cannot write {out} ({error}); free some space or choose another place"
        ) from error
    return rows, rejects


def to_batches(table: pa.Table, schema: Schema, rows: int = _BATCH_ROWS) -> Iterator[Batch]:
    """Cut encoded rows into batches; rows without a label get 0."""
    for start in range(0, table.num_rows, rows):
        part = table.slice(start, rows)
        arrays = to_arrays(part, schema)
        label = np.zeros(part.num_rows, np.float32)
        if schema.raw.label in part.column_names:
            label = part[schema.raw.label].to_numpy().astype(np.float32)
        ragged = None
        if arrays.values is not None and arrays.lengths is not None:
            keys = tuple(feature.name for feature in schema.multi_hot)
            ragged = Ragged(keys, torch.from_numpy(arrays.values), torch.from_numpy(arrays.lengths))
        yield Batch(
            dense=torch.from_numpy(arrays.dense),
            keys=tuple(feature.name for feature in schema.one_hot),
            ids=torch.from_numpy(arrays.ids),
            label=torch.from_numpy(label),
            ragged=ragged,
        )


def _scored(frozen: Path, raw: Path, labelled: bool | None) -> Iterator[Scored]:
    model, encoder = load_frozen(frozen)
    part: RawRows
    for part in tqdm(read_raw(raw, encoder.schema, labelled), unit="block", delay=2, disable=None):
        encoded = encoder.encode(part.table)
        with torch.inference_mode():
            probabilities = [
                torch.sigmoid(model(batch).double()).numpy() for batch in to_batches(encoded, encoder.schema)
            ]
        name = encoder.schema.raw.label
        label = encoded[name].to_numpy().astype(np.float64) if name in encoded.column_names else None
        yield Scored(np.concatenate(probabilities or [np.empty(0)]), label, part.accepted, part.rejects)
