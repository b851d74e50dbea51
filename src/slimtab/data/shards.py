"""Encoded rows on disk: Arrow IPC files, uncompressed, so that a batch is a slice of mapped memory.

Measured against Parquet: reading a shard from page cache is a matter of pointers here, while Parquet decodes
every page; the price is size, about 160 bytes per Criteo row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from slimtab.data.chunks import Chunk
from slimtab.data.counting import TokenIds
from slimtab.data.encode import place_ids, shard_schema
from slimtab.data.split import Split
from slimtab.data.transforms import transform
from slimtab.files import written
from slimtab.schema import SPLITS, Schema

SHARD_ROWS = 262_144
BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Shard:
    """A shard to write.

    Attributes:
        split: train, valid or test.
        number: its number in the split.
        rows: number of rows.
        parts: which rows, in order: the chunk, and the first and last (exclusive) of its rows in this split.
    """

    split: str
    number: int
    rows: int
    parts: tuple[tuple[int, int, int], ...]

    @property
    def name(self) -> str:
        """Path inside the dataset."""
        return f"{self.split}/part-{self.number:05d}.arrow"


def plan_shards(split: Split) -> Iterator[Shard]:
    """Yield the shards of all splits; an empty split has one empty shard."""
    for name in SPLITS:
        number, rows = 0, 0
        parts: list[tuple[int, int, int]] = []
        for chunk in range(len(split.starts) - 1):
            low, count = 0, split.count(chunk, name)
            while low < count:
                high = min(count, low + SHARD_ROWS - rows)
                parts.append((chunk, low, high))
                rows += high - low
                low = high
                if rows == SHARD_ROWS:
                    yield Shard(name, number, rows, tuple(parts))
                    number, rows, parts = number + 1, 0, []
        if rows or number == 0:
            yield Shard(name, number, rows, tuple(parts))


def write_shard(
    shard: Shard,
    schema: Schema,
    chunks: Mapping[int, Chunk],
    split: Split,
    ids: Mapping[str, TokenIds],
    folder: Path,
) -> None:
    """Encode a shard's rows and write it, complete or not at all; ``chunks`` are those of its parts."""
    layout = shard_schema(schema)
    path = folder / shard.name
    rest = layout.empty_table()
    with (
        written(path) as beside,
        pa.OSFile(str(beside), "wb") as sink,
        pa.ipc.new_file(sink, layout) as writer,
    ):
        for number, low, high in shard.parts:
            rows = split.rows_of(number, shard.split)[low:high]
            table = pa.concat_tables(
                [rest, _encode(chunks[number], number, rows, schema, ids)]
            ).combine_chunks()
            whole = table.num_rows // BATCH_ROWS * BATCH_ROWS
            writer.write_table(table.slice(0, whole), max_chunksize=BATCH_ROWS)
            rest = table.slice(whole)
        writer.write_table(rest)


def _encode(
    chunk: Chunk, number: int, rows: np.ndarray, schema: Schema, ids: Mapping[str, TokenIds]
) -> pa.Table:
    layout = shard_schema(schema)
    low, count = int(rows[0]), len(rows)
    consecutive = int(rows[-1]) - low + 1 == count
    columns = []
    for field, column in zip(layout, chunk.columns(*layout.names), strict=True):
        column = column.slice(low, count) if consecutive else column.take(pa.array(rows))
        if field.name in ids:
            column = place_ids(column, ids[field.name].of_chunk(number, chunk))
        elif pa.types.is_float32(field.type):
            numeric = next(numeric for numeric in schema.numerics if numeric.name == field.name)
            column = pa.array(transform(numeric, column))
        columns.append(column)
    return pa.table(columns, schema=layout)
