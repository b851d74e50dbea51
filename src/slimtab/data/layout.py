"""How raw columns lie in a file: names, types, separators, and what makes a row malformed."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from slimtab.data.columns import AVAZU_DERIVED, AVAZU_TOKENS, CRITEO_NUMBERS, CRITEO_TOKENS
from slimtab.data.sources import first_lines, text_suffix
from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Schema

_LOOK_AT = 20
_SHOWN = 40
_SEPARATORS = ",;\t|"  # that a table's header may turn out to have
_PLAIN_INTEGER = re.compile(r"-?\d{1,18}")
_LARGEST = float(np.finfo(np.float32).max)
_STAMP = re.compile(r"\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])")


@dataclass(frozen=True)
class Layout:
    """The raw columns that a schema needs from a file.

    Attributes:
        kind: which raw format.
        label: name of the label column.
        types: Arrow type of each column to read, the label first; lists are read as text and split later.
        separator: between fields of a line.
        nulls: cells that mean a missing number.
    """

    kind: str
    label: str
    types: dict[str, pa.DataType]
    separator: str
    nulls: tuple[str, ...]

    @classmethod
    def of(cls, schema: Schema) -> Layout:
        """Return the layout of the raw files that ``schema`` was made from."""
        raw = schema.raw
        whole = raw.kind in ("criteo", "avazu")
        number, nulls = (
            (pa.int64(), ("",)) if whole else (pa.float64(), ("", "NA", "NaN", "nan", "null", "NULL"))
        )
        types: dict[str, pa.DataType] = {raw.label: number}
        for numeric in schema.numerics:
            types[numeric.name] = number
        for feature in schema.features:
            types[feature.name] = number if feature.bucketise else pa.string()
        if raw.kind == "avazu":
            types = {raw.label: number, "hour": number} | {name: pa.string() for name in AVAZU_TOKENS}
        return cls(raw.kind, raw.label, types, raw.separator, nulls)

    def separator_of(self, path: Path) -> str:
        """Return the field separator of this file."""
        return "\t" if text_suffix(path) == ".tsv" and self.separator == "," else self.separator

    def fields(self, path: Path, labelled: bool | None) -> tuple[str, ...]:
        """Return the names of a text line's fields.

        Args:
            path: the raw file.
            labelled: whether rows must have a label; None takes either.

        Raises:
            SlimtabError: when quotes do not match, a column is missing, or a header has no place there.
        """
        lines = [line.decode("utf-8", errors="replace") for line in first_lines(path, _LOOK_AT)]
        try:
            cells = split_line(lines[0], self.separator_of(path)) if lines else []
        except csv.Error as error:
            raise SlimtabError(
                f"{path}: the header {_shown(lines[0])} has quotes that do not match ({error}); mend them"
            ) from None
        if self.kind != "criteo":
            self.check_names(path, cells, labelled)
            return tuple(cells)
        names = (self.label, *CRITEO_NUMBERS, *CRITEO_TOKENS)
        numbers = [cell for cell in cells[:14] if cell]
        if len(cells) >= 39 and numbers and not any(_PLAIN_INTEGER.fullmatch(cell) for cell in numbers):
            raise SlimtabError(
                f"{path} starts with a header, Criteo files have none; remove it with `tail -n +2`"
            )
        # Any one line may be malformed; whether the file has labels is what most of the first lines say.
        counts = [line.count("\t") + 1 for line in lines]
        if 2 * counts.count(len(names) - 1) <= len(counts):
            return names
        if labelled:
            raise SlimtabError(
                f"{path} has {len(names) - 1} columns: the label is missing; give rows with labels"
            )
        return names[1:]

    def check_names(self, path: Path, found: list[str], labelled: bool | None) -> None:
        """Check a header or Parquet schema.

        Raises:
            SlimtabError: when a needed column is missing or a name stands twice.
        """
        for name in found:
            if name in self.types and found.count(name) > 1:
                raise SlimtabError(f"{path} has two columns named '{name}'; rename or drop one")
        for name in self.types:
            if name not in found and (name != self.label or labelled is True):
                hint = self._other_separator(name, found) or nearest(name, found)
                raise SlimtabError(f"{path} has no column '{name}'{hint}")

    def _other_separator(self, name: str, found: list[str]) -> str:
        """Say what separates fields where a header read as a single name holds ``name`` among others."""
        if self.kind != "table" or len(found) != 1:
            return ""
        for other in _SEPARATORS:
            if name in [cell.strip('"') for cell in found[0].split(other)]:
                return (
                    f": fields are separated by {other!r} there; say so in the column description, "
                    f"separator: {json.dumps(other)}"
                )
        return ""

    def suspicious(self, table: pa.Table) -> np.ndarray:
        """Return a mask [rows] bool of parsed rows whose values are not allowed."""
        bad = np.zeros(table.num_rows, dtype=bool)
        for name, kind in self.types.items():
            if name == self.label and name in table.column_names:
                bad |= ~_numpy(pc.is_in(table[name], value_set=pa.array([0, 1], kind)))
            elif kind == pa.float64():
                bad |= np.abs(_numpy(pc.fill_null(table[name], 0.0))) > _LARGEST
            elif self.kind == "avazu" and name == "hour":
                text = pc.cast(table[name], pa.string())
                bad |= ~_numpy(pc.fill_null(pc.match_substring_regex(text, f"^{_STAMP.pattern}$"), False))
        return bad

    def fault(self, line: bytes, fields: tuple[str, ...], separator: str) -> str | None:
        """Say what is wrong with one line (without its line end), None when nothing is."""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"bytes that are not UTF-8 at byte {error.start + 1}"
        if "\r" in text:
            return "a carriage return inside the row"
        try:
            cells = split_line(text, separator)
        except csv.Error as error:
            return f"quotes that do not match ({error})"
        if len(cells) != len(fields):
            return f"{len(cells)} columns where {len(fields)} belong"
        for name, cell in zip(fields, cells, strict=True):
            kind = self.types.get(name)
            if kind is None or kind == pa.string():
                continue
            is_label = name == self.label
            value = _label(cell) if is_label and self.kind == "table" else self._number(cell, kind)
            if is_label:
                if value not in (0, 1):
                    return f"label {_shown(cell)} is not 0 or 1"
            elif self.kind == "avazu":
                if not _STAMP.fullmatch(str(value)):
                    return f"{name}: {_shown(cell)} is not a time like 14102100 (YYMMDDHH)"
            elif value is None and cell not in self.nulls:
                return f"{name}: {_shown(cell)} is not {'an integer' if kind == pa.int64() else 'a number'}"
            elif value is not None and abs(value) > _LARGEST:
                return f"{name}: {_shown(cell)} is beyond the numbers a float32 can hold"
        return None

    def parse(self, data: bytes, fields: tuple[str, ...], separator: str) -> pa.Table:
        """Parse whole lines into typed columns.

        Raises:
            pa.ArrowInvalid: when any line does not fit.
        """
        words = self.kind == "table" and self.label in fields
        table = pc_csv.read_csv(
            io.BytesIO(data),
            read_options=pc_csv.ReadOptions(column_names=fields, use_threads=False, block_size=len(data) + 1),
            parse_options=pc_csv.ParseOptions(
                delimiter=separator, quote_char=_quote(separator), escape_char=False
            ),
            convert_options=pc_csv.ConvertOptions(
                column_types=self.types | ({self.label: pa.string()} if words else {}),
                include_columns=[name for name in self.types if name in fields],
                null_values=list(self.nulls),
                strings_can_be_null=False,
            ),
        )
        if not words:
            return table
        place, cells = table.column_names.index(self.label), table[self.label].combine_chunks()
        cells = cells.dictionary_encode()
        labels = pa.array([_label(cell) for cell in cells.dictionary.to_pylist()], self.types[self.label])
        return table.set_column(place, self.label, labels.take(cells.indices))

    def _number(self, cell: str, kind: pa.DataType) -> float | None:
        """Read a cell exactly as :meth:`parse` does."""
        if _PLAIN_INTEGER.fullmatch(cell):
            return int(cell)
        try:
            table = pc_csv.read_csv(
                io.BytesIO(b'"%b"\n' % cell.replace('"', '""').encode()),
                read_options=pc_csv.ReadOptions(column_names=["x"], use_threads=False),
                convert_options=pc_csv.ConvertOptions(column_types={"x": kind}, null_values=list(self.nulls)),
            )
        except pa.ArrowInvalid:
            return None
        value: float | None = table["x"][0].as_py() if table.num_rows else None
        return value


def split_line(text: str, separator: str) -> list[str]:
    """Split a line into cells. Tabs separate literally; other separators honour double quotes."""
    if not _quote(separator):
        return text.split(separator)
    return next(csv.reader([text], delimiter=separator, strict=True), [])


def _label(cell: str) -> float | None:
    """Read a label of a table: a number that is 0 or 1, or true or false; None for anything else."""
    text = cell.strip().lower()
    try:
        value = float({"true": "1", "false": "0"}.get(text, text))
    except ValueError:
        return None
    return value if value in (0, 1) else None


def is_derived(kind: str, name: str) -> bool:
    """Whether this column is computed from the raw ones instead of read."""
    return kind == "avazu" and name in AVAZU_DERIVED


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "…")


def _quote(separator: str) -> str | bool:
    # Tab-separated files (Criteo's among them) hold quotes as ordinary characters.
    return False if separator == "\t" else '"'


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    array: np.ndarray = (
        column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    )
    return array
