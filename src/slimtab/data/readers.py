"""Raw files as typed rows: text in blocks, Parquet in batches, malformed rows set aside with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimtab.data.layout import Layout
from slimtab.data.sources import Block, find_sources, read_blocks
from slimtab.errors import SlimtabError
from slimtab.schema import Schema

BLOCK_BYTES = 32 * 2**20
PARQUET_ROWS = 131_072


@dataclass(frozen=True)
class Reject:
    """A malformed row: its 1-based line (or Parquet row) and what is wrong with it."""

    line: int
    reason: str


@dataclass(frozen=True)
class RawRows:
    """Consecutive rows of a raw file.

    Attributes:
        table: the well-formed rows: label (if the file has it), numbers, tokens, as typed columns.
        accepted: for each row of the file, in order, whether it is well-formed [rows] bool;
            ``accepted.sum() == table.num_rows``. Blank lines are not rows.
        rejects: the malformed ones.
        file: the raw file.
    """

    table: pa.Table
    accepted: np.ndarray
    file: Path
    rejects: list[Reject] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """A part of a raw file, not parsed yet.

    Attributes:
        start: where it begins in its file; the unit is the reader's own.
        end: where the next piece begins.
        next_line: number of the first line after it.
        parse: parses it; may be called in another thread.
    """

    start: int
    end: int
    next_line: int
    parse: Callable[[], RawRows]


class RawReader(Protocol):
    """One raw file, readable from any piece's end."""

    def pieces(self, start: int = 0, line: int = 1) -> Iterator[Piece]:
        """Yield the pieces from ``start`` on."""
        ...


def read_raw(path: Path, schema: Schema, labelled: bool | None = None) -> Iterator[RawRows]:
    """Stream raw rows for a dataset or model with this schema, in the file's order and bounded memory.

    Args:
        path: a raw file, or a folder of them: text (plain, ``.gz``, ``.zst``) or Parquet. Sports rows are
            read as a table with the columns user, item and categories.
        schema: what the rows are to be encoded for.
        labelled: True demands labels, None takes rows with or without.

    Raises:
        SlimtabError: when a whole file is unusable. Malformed rows are reported in each part instead.
    """
    layout = Layout.of(schema)
    for file in find_sources(path, schema.raw.kind):
        for piece in open_reader(file, layout, labelled).pieces():
            yield piece.parse()


def open_reader(
    path: Path, layout: Layout, labelled: bool | None = True, block_bytes: int = BLOCK_BYTES
) -> TextReader | ParquetReader:
    """Return the reader for a file, by its suffix.

    Raises:
        SlimtabError: when its columns are not those of the layout.
    """
    if path.suffix == ".parquet":
        return ParquetReader(path, layout, labelled)
    return TextReader(path, layout, labelled, block_bytes)


class TextReader:
    """Lines of separated fields; plain, ``.gz`` or ``.zst``."""

    def __init__(self, path: Path, layout: Layout, labelled: bool | None, block_bytes: int) -> None:
        self.path, self.layout, self.block_bytes = path, layout, block_bytes
        self.fields = layout.fields(path, labelled)
        self.separator = layout.separator_of(path)
        self.header = layout.kind != "criteo"

    def pieces(self, start: int = 0, line: int = 1) -> Iterator[Piece]:
        """Yield blocks of lines; ``start`` counts (decompressed) bytes."""
        for block in read_blocks(self.path, self.block_bytes, start, line):
            yield Piece(block.start, block.end, block.first_line + block.lines, partial(self.parse, block))

    def parse(self, block: Block) -> RawRows:
        """Parse one block: all at once when every line is well-formed, else line by line."""
        data, first, lines = block.data, block.first_line, block.lines
        if first == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        if self.header and first == 1:
            data, first, lines = data[data.find(b"\n") + 1 :] if b"\n" in data else b"", 2, lines - 1
        table = self._parse_clean(data, lines)
        if table is not None:
            return RawRows(table, np.ones(table.num_rows, dtype=bool), self.path)
        return self._sift(data, first)

    def _parse_clean(self, data: bytes, rows: int) -> pa.Table | None:
        try:
            table = self.layout.parse(data, self.fields, self.separator)
        except pa.ArrowInvalid:
            return None
        if table.num_rows != rows or self.layout.suspicious(table).any():
            return None
        return table

    def _sift(self, data: bytes, first: int) -> RawRows:
        good: list[bytes] = []
        accepted: list[bool] = []
        rejects: list[Reject] = []
        lines = data.split(b"\n")
        for number, line in enumerate(lines, start=first):
            row = line.removesuffix(b"\r")
            if not row:
                continue
            reason = self.layout.fault(row, self.fields, self.separator)
            accepted.append(reason is None)
            if reason is None:
                good.append(row)
                continue
            # Only a file's very last line can lack its line end.
            unended = number == first + len(lines) - 1
            if unended and row.count(self.separator.encode()) + 1 < len(self.fields):
                raise SlimtabError(
                    f"{self.path} ends in the middle of row {number} ({reason}); download it again"
                )
            rejects.append(Reject(number, reason))
        table = self._parse_clean(b"\n".join(good), len(good)) if good else self._no_rows()
        if table is None:
            last = first + len(lines) - 1
            raise SlimtabError(f"{self.path}: lines {first}–{last} cannot be parsed; look for stray quotes")
        return RawRows(table, np.array(accepted, dtype=bool), self.path, rejects)

    def _no_rows(self) -> pa.Table:
        return pa.schema(
            [(name, kind) for name, kind in self.layout.types.items() if name in self.fields]
        ).empty_table()


class ParquetReader:
    """Rows of a Parquet file."""

    def __init__(self, path: Path, layout: Layout, labelled: bool | None) -> None:
        self.path, self.layout = path, layout
        try:
            self.fields: list[str] = pq.read_schema(path).names
        except (OSError, pa.ArrowException) as error:
            raise SlimtabError(f"{path} is not a whole Parquet file ({error}); download it again") from error
        layout.check_names(path, self.fields, labelled)

    def pieces(self, start: int = 0, line: int = 1) -> Iterator[Piece]:
        """Yield batches of rows; ``start`` counts rows."""
        columns = [name for name in self.layout.types if name in self.fields]
        position = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(PARQUET_ROWS, columns=columns, use_threads=False):
                    end = position + batch.num_rows
                    if position >= start:
                        yield Piece(
                            position, end, end + 1, partial(self.parse, pa.table(batch), position + 1)
                        )
                    position = end
        except (OSError, pa.ArrowException) as error:
            raise SlimtabError(f"{self.path} cannot be read ({error}); download it again") from error

    def parse(self, table: pa.Table, first: int) -> RawRows:
        """Cast a batch to the layout's types and set malformed rows aside."""
        columns = {}
        for name in table.column_names:
            kind, column = self.layout.types[name], table[name]
            if kind != pa.string():
                try:
                    column = (
                        column.cast(pa.int8()).cast(kind)
                        if pa.types.is_boolean(column.type)
                        else column.cast(kind)
                    )
                except pa.ArrowException as error:
                    raise SlimtabError(
                        f"{self.path}: column '{name}' holds {column.type}, not numbers ({error})"
                    ) from error
            columns[name] = column
        typed = pa.table(columns)
        bad = self.layout.suspicious(typed)
        rejects = [Reject(first + int(row), self._reason(typed, int(row))) for row in np.flatnonzero(bad)]
        return RawRows(typed.filter(pa.array(~bad)) if rejects else typed, ~bad, self.path, rejects)

    def _reason(self, table: pa.Table, row: int) -> str:
        label = table[self.layout.label][row].as_py() if self.layout.label in table.column_names else 0
        if label not in (0, 1):
            return f"label {label!r} is not 0 or 1"
        return "a number beyond what a float32 can hold, or a malformed time"
