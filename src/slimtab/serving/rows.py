"""Raw rows in whatever a caller holds them: dicts, pandas, polars or Arrow; read once, the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimtab.data.layout import Layout
from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Schema

_LARGEST = float(np.finfo(np.float32).max)


class RowReader:
    """Takes the columns that a schema needs out of raw rows, and checks them.

    Other columns, the label among them, are not looked at. Errors count rows from 0.

    Args:
        schema: of the model.
    """

    def __init__(self, schema: Schema) -> None:
        self._layout = Layout.of(schema)
        self._separator = schema.raw.list_separator
        self._lists = {feature.name for feature in schema.multi_hot}
        self._types = {name: kind for name, kind in self._layout.types.items() if name != schema.raw.label}

    def read(self, rows: Any) -> pa.Table:
        """Return the columns needed: numbers as float64, tokens as they are, or lists of tokens.

        Args:
            rows: one row as a dict from column to cell; several as a list of such; or a table: pandas,
                polars, Arrow, or another that offers Arrow's stream.

        Raises:
            SlimtabError: when a column is missing or there twice, or holds what it cannot hold.
        """
        if isinstance(rows, Mapping):
            rows = [rows]
        table = self._from_dicts(rows) if isinstance(rows, list | tuple) else self._from_table(rows)
        for name, kind in self._types.items():
            if kind != pa.string():
                self._check_numbers(name, table[name])
        return table

    def _from_dicts(self, rows: Sequence[Any]) -> pa.Table:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise SlimtabError(f"row {number} is a {type(row).__name__}; give a dict from column to cell")
            for name in self._types:
                if name not in row:
                    raise SlimtabError(f"row {number} has no column '{name}'{nearest(name, map(str, row))}")
        return pa.table({name: self._column(name, [row[name] for row in rows]) for name in self._types})

    def _column(self, name: str, cells: list[Any]) -> pa.Array:
        """Turn cells into a column; each by itself, so that no row depends on those beside it."""
        read: Callable[[Any], Any] = self._list if name in self._lists else _text
        kind = pa.list_(pa.string()) if name in self._lists else pa.string()
        if self._types[name] != pa.string():
            read, kind = _number, pa.float64()
        column: list[Any] = []
        try:
            column.extend(map(read, cells))
        except (TypeError, ValueError, OverflowError) as error:
            raise SlimtabError(f"column '{name}', row {len(column)}: {error}") from error
        return pa.array(column, kind)

    def _list(self, cell: Any) -> list[str]:
        if cell is None:
            return []
        if isinstance(cell, str):
            return [_unicode(token) for token in cell.split(self._separator)]
        if not isinstance(cell, list | tuple | np.ndarray):
            raise TypeError(f"{_shown(cell)} is no list of tokens")
        return [token for token in map(_text, cell) if token is not None]

    def _from_table(self, rows: Any) -> pa.Table:
        if not hasattr(rows, "__arrow_c_stream__"):
            raise SlimtabError(
                f"rows are a {type(rows).__name__}; give a dict, a list of dicts, or a pandas, polars or "
                "Arrow table"
            )
        names = rows.schema.names if isinstance(rows, pa.Table | pa.RecordBatch) else list(rows.columns)
        for name in self._types:
            if name not in names:
                raise SlimtabError(f"the rows have no column '{name}'{nearest(name, map(str, names))}")
            if names.count(name) > 1:
                raise SlimtabError(f"the rows have two columns named '{name}'; rename or drop one")
        wanted = list(self._types)
        try:
            picked = rows.select(wanted) if isinstance(rows, pa.Table | pa.RecordBatch) else rows[wanted]
            table = pa.table(picked)
            return pa.table({name: self._typed(name, table[name]) for name in wanted})
        except (pa.ArrowException, UnicodeError, OverflowError, TypeError) as error:
            raise SlimtabError(
                f"the rows cannot be read ({' '.join(str(error).split())}); make each column of one type"
            ) from error

    def _typed(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        kind = column.type
        while pa.types.is_dictionary(kind) or (name in self._lists and _is_list(kind)):
            kind = kind.value_type
        if self._types[name] == pa.string():
            if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                raise SlimtabError(f"column '{name}' holds {column.type}; give tokens as text or integers")
            return column.cast(pa.list_(pa.string())) if _is_list(column.type) else column
        if not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        ) and not pa.types.is_null(kind):
            raise SlimtabError(f"column '{name}' holds {column.type}; give numbers, empty where missing")
        return column.cast(pa.float64(), safe=False)

    def _check_numbers(self, name: str, column: pa.ChunkedArray) -> None:
        values = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
        beyond = np.abs(values) > _LARGEST
        if beyond.any():
            row = int(beyond.argmax())
            raise SlimtabError(
                f"column '{name}', row {row}: {values[row]} is beyond the numbers a float32 can hold"
            )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _number(cell: Any) -> float | None:
    if cell is None:
        return None
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, Real):
        raise TypeError(f"{_shown(cell)} is not a number")
    return float(cell)


def _text(cell: Any) -> str | None:
    """Return a token as prep makes it of a cell of its own type."""
    if cell is None or isinstance(cell, str):
        return cell if cell is None else _unicode(cell)
    if isinstance(cell, bool | np.bool_):
        return "true" if cell else "false"
    if isinstance(cell, Integral):
        return str(int(cell))
    if isinstance(cell, Real):
        return None if cell != cell else str(pc.cast(pa.scalar(float(cell)), pa.string()))
    raise TypeError(f"{_shown(cell)} is no token; give text or an integer")


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{_shown(text)} is no valid Unicode") from None
    return text


def _shown(cell: Any) -> str:
    text = ascii(cell)
    return text if len(text) <= 40 else text[:40] + "…"
