"""Parsed rows between the passes of prep: Arrow files with numbers as read and tokens by dictionary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from slimtab.data.encode import dictionary_of, hashed, place_ids
from slimtab.data.rawcolumns import labels_of, raw_column, tokens_of
from slimtab.data.readers import Piece, RawRows
from slimtab.files import written
from slimtab.schema import Schema


@dataclass(frozen=True)
class Chunk:
    """One piece of the raw files, parsed and on disk.

    Attributes:
        path: the Arrow file.
        rows: number of well-formed rows.
        rejects: number of malformed ones.
        file: index of the raw file.
        end: where the next piece of that file begins.
        next_line: number of the first line after this piece.
        distinct: number of distinct tokens of each feature, here.
    """

    path: Path
    rows: int
    rejects: int
    file: int
    end: int
    next_line: int
    distinct: dict[str, int]

    @property
    def rejects_path(self) -> Path:
        """Where the malformed rows of this piece are listed."""
        return self.path.with_suffix(".jsonl")

    def columns(self, *names: str) -> list[pa.Array]:
        """Map columns into memory; pages are read when touched and released with the arrays."""
        source = pa.memory_map(str(self.path))
        fields = pa.ipc.open_file(source).schema
        indices = [fields.get_field_index(name) for name in names]
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=indices))
        batch = reader.get_batch(0)
        return [batch.column(name) for name in names]

    @classmethod
    def load(cls, path: Path) -> Chunk:
        """Read a chunk's description from its file."""
        with pa.memory_map(str(path)) as source:
            description: dict[str, Any] = json.loads(pa.ipc.open_file(source).schema.metadata[b"chunk"])
        return cls(path=path, **description)


def write_chunk(path: Path, piece: Piece, file: int, schema: Schema) -> Chunk:
    """Parse a piece and write it, complete or not at all."""
    parsed = piece.parse()
    columns, distinct = _columns(parsed.table, schema)
    chunk = Chunk(
        path, parsed.table.num_rows, len(parsed.rejects), file, piece.end, piece.next_line, distinct
    )
    if parsed.rejects:
        with written(chunk.rejects_path) as beside:
            beside.write_text(_reject_lines(parsed), encoding="utf-8")
    description = {key: value for key, value in vars(chunk).items() if key != "path"}
    batch = pa.record_batch(columns, metadata={"chunk": json.dumps(description)})
    with (
        written(path) as beside,
        pa.OSFile(str(beside), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return chunk


def _columns(table: pa.Table, schema: Schema) -> tuple[dict[str, pa.Array], dict[str, int]]:
    columns = {schema.raw.label: labels_of(table, schema)}
    distinct = {}
    for numeric in schema.numerics:
        columns[numeric.name] = raw_column(table, numeric.name).combine_chunks()
    for feature in schema.features:
        tokens = tokens_of(table, schema, feature)
        dictionary = dictionary_of(tokens)
        distinct[feature.name] = len(dictionary)
        hashing = feature.encoding == "hash"
        columns[feature.name] = (
            place_ids(tokens, hashed(feature, schema.hash_seed, dictionary)) if hashing else tokens
        )
    return columns, distinct


def _reject_lines(parsed: RawRows) -> str:
    lines = [
        json.dumps(
            {"file": parsed.file.name, "line": reject.line, "reason": reject.reason}, ensure_ascii=False
        )
        for reject in parsed.rejects
    ]
    return "\n".join(lines) + "\n"
