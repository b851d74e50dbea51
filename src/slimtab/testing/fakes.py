"""Fakes for tests: a schema, a batch, a dataset folder in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from slimtab.batch import Batch, Ragged
from slimtab.schema import Feature, Numeric, RawFormat, Schema


def fake_schema(sizes: Sequence[int], *, numerics: int = 3, multi_hot: Sequence[int] = ()) -> Schema:
    """Return a schema with one-hot features ``C1 …``, multi-hot ones ``M1 …`` and numeric columns ``I1 …``.

    Args:
        sizes: number of ids of each one-hot feature.
        numerics: how many numeric columns.
        multi_hot: number of ids of each multi-hot feature.

    Example:
        >>> [feature.name for feature in fake_schema([10, 1000], multi_hot=[50]).features]
        ['C1', 'C2', 'M1']
    """
    return Schema(
        raw=RawFormat("table"),
        numerics=tuple(Numeric(f"I{n}") for n in range(1, numerics + 1)),
        features=(
            *(Feature(f"C{n}", size) for n, size in enumerate(sizes, 1)),
            *(Feature(f"M{n}", size, multi_hot=True) for n, size in enumerate(multi_hot, 1)),
        ),
    )


def fake_batch(schema: Schema, size: int, seed: int) -> Batch:
    """Return ``size`` random rows: normal numbers, uniform ids, 0 to 4 of them in a multi-hot cell.

    Labels are 1 in a quarter of the rows. Ids of hashed features are any int64 that is not negative.
    """
    rng = np.random.default_rng(seed)

    def ids(feature: Feature, count: int) -> torch.Tensor:
        limit = 2**63 - 1 if feature.encoding == "hash" else feature.num_ids
        return torch.from_numpy(rng.integers(0, limit, count, dtype=np.int64))

    dense = torch.from_numpy(rng.standard_normal((size, len(schema.numerics)), dtype=np.float32))
    one_hot = [ids(feature, size) for feature in schema.one_hot]
    ragged = None
    if schema.multi_hot:
        lengths = torch.from_numpy(rng.integers(0, 5, (len(schema.multi_hot), size)))
        cells = zip(schema.multi_hot, lengths.sum(1).tolist(), strict=True)
        values = torch.cat([ids(feature, count) for feature, count in cells])
        ragged = Ragged(tuple(feature.name for feature in schema.multi_hot), values, lengths)
    return Batch(
        dense=dense,
        keys=tuple(feature.name for feature in schema.one_hot),
        ids=torch.stack(one_hot, 1) if one_hot else torch.empty((size, 0), dtype=torch.int64),
        label=torch.from_numpy((rng.random(size) < 0.25).astype(np.float32)),
        ragged=ragged,
    )


def fake_dataset(
    folder: Path,
    schema: Schema,
    rows: dict[str, int],
    *,
    seed: int = 0,
    shard_rows: int = 262_144,
    block_rows: int = 16_384,
) -> dict[str, Batch]:
    """Write a dataset folder of :func:`fake_batch` rows, as ``slimtab prep`` does, without vocabularies.

    Args:
        folder: made where it is absent.
        schema: the columns; the folder's ``schema.json`` has them and the row counts.
        rows: number of rows of each split.
        seed: of the rows.
        shard_rows: rows per file.
        block_rows: rows per record batch.

    Returns:
        All rows of each split, as one batch in the order of the files.
    """
    import pyarrow as pa

    from slimtab.data.encode import shard_schema

    written: dict[str, Batch] = {}
    for split, count in rows.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        whole = written[split] = fake_batch(schema, count, seed + len(written))
        columns = [whole.label.numpy().astype(np.int8), *whole.dense.numpy().T, *whole.ids.numpy().T]
        if whole.ragged is not None:
            ends = whole.ragged.lengths.flatten().cumsum(0).numpy()
            offsets = np.append(0, ends).astype(np.int32)
            values = whole.ragged.values.numpy()
            columns += [
                pa.ListArray.from_arrays(offsets[number * count : (number + 1) * count + 1], values)
                for number in range(len(schema.multi_hot))
            ]
        names = [schema.raw.label, *(numeric.name for numeric in schema.numerics)]
        names += [feature.name for feature in (*schema.one_hot, *schema.multi_hot)]
        layout = shard_schema(schema)
        table = pa.table([pa.array(column) for column in columns], names).select(layout.names).cast(layout)
        for number, start in enumerate(range(0, count, shard_rows)):
            path = folder / split / f"part-{number:05d}.arrow"
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, layout) as file:
                file.write_table(table.slice(start, shard_rows), max_chunksize=block_rows)
    dataclasses.replace(schema, rows=dict(rows)).save(folder / "schema.json")
    return written
