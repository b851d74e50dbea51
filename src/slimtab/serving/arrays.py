"""What a served model takes, as NumPy arrays: the same whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slimtab.errors import SlimtabError
from slimtab.schema import Schema


@dataclass(frozen=True)
class Arrays:
    """Encoded rows.

    Attributes:
        dense: transformed numeric columns [B, I] float32.
        ids: of the one-hot features [B, F] int64.
        values: of the multi-hot features [N] int64, one feature after another, each in row order; None
            where a model has none.
        lengths: ids per multi-hot feature and row [M, B] int64, or None.
    """

    dense: NDArray[np.float32]
    ids: NDArray[np.int64]
    values: NDArray[np.int64] | None = None
    lengths: NDArray[np.int64] | None = None

    def inputs(self) -> tuple[NDArray[Any], ...]:
        """Return the arrays a program takes, in its order."""
        if self.values is None or self.lengths is None:
            return self.dense, self.ids
        return self.dense, self.ids, self.values, self.lengths

    def with_a_value(self) -> Arrays:
        """Return the same, with one row more that has an id, where no row has a multi-hot id.

        Programs are traced for one id at least: without any, strides and shapes are cases of their own.
        """
        if self.values is None or self.lengths is None or len(self.values):
            return self
        one = np.zeros((len(self.lengths), 1), np.int64)
        one[0] = 1
        dense, ids = np.pad(self.dense, ((0, 1), (0, 0))), np.pad(self.ids, ((0, 1), (0, 0)))
        return Arrays(dense, ids, np.zeros(1, np.int64), np.concatenate([self.lengths, one], axis=1))

    def parts(self, rows: int) -> Iterator[Arrays]:
        """Cut into parts of up to so many rows, none where there are no rows."""
        for start in range(0, len(self.dense), rows):
            part = slice(start, start + rows)
            if self.values is None or self.lengths is None:
                yield Arrays(self.dense[part], self.ids[part])
                continue
            # Each feature's values of those rows, out of the array that holds one feature after another.
            ends = self.lengths.cumsum().reshape(self.lengths.shape)
            begins = ends - self.lengths
            pieces = [
                self.values[begin[part][0] : end[part][-1]] for begin, end in zip(begins, ends, strict=True)
            ]
            yield Arrays(self.dense[part], self.ids[part], np.concatenate(pieces), self.lengths[:, part])


def to_arrays(table: pa.Table, schema: Schema) -> Arrays:
    """Return encoded rows, as :class:`~slimtab.data.encode.Encoder` makes them, as arrays."""

    def matrix(names: list[str], kind: type[Any]) -> NDArray[Any]:
        columns = [table[name].to_numpy().astype(kind) for name in names]
        return np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0), kind)

    dense = matrix([column.name for column in schema.numerics], np.float32)
    ids = matrix([feature.name for feature in schema.one_hot], np.int64)
    if not schema.multi_hot:
        return Arrays(dense, ids)
    lists = [table[feature.name].combine_chunks() for feature in schema.multi_hot]
    values = np.concatenate([column.flatten().to_numpy().astype(np.int64) for column in lists])
    lengths = np.stack([column.value_lengths().to_numpy().astype(np.int64) for column in lists])
    return Arrays(dense, ids, values, lengths)


def check_arrays(schema: Schema, dense: Any, ids: Any, values: Any = None, lengths: Any = None) -> Arrays:
    """Return arrays or tensors from outside as a program takes them.

    Ids are not looked at: a program reads row 0, out of vocabulary, for those outside their range.

    Raises:
        SlimtabError: when one is missing, or of another kind or shape than the schema asks for.
    """
    rows = len(np.asarray(dense))
    numbers = _array("dense", dense, (rows, len(schema.numerics)), np.float32)
    check_finite(schema, numbers)
    one_hot = _array("ids", ids, (rows, len(schema.one_hot)), np.int64)
    if not schema.multi_hot:
        if values is not None or lengths is not None:
            raise SlimtabError("this model has no multi-hot feature; leave out values and lengths")
        return Arrays(numbers, one_hot)
    if values is None or lengths is None:
        raise SlimtabError(f"'{schema.multi_hot[0].name}' is multi-hot; give its ids as values and lengths")
    counts = _array("lengths", lengths, (len(schema.multi_hot), rows), np.int64)
    flat = _array("values", values, (len(np.asarray(values)),), np.int64)
    if counts.size and counts.min() < 0:
        raise SlimtabError("lengths holds a negative number; each is how many ids a row has")
    if counts.sum() != len(flat):
        raise SlimtabError(f"lengths add up to {counts.sum()}, but values holds {len(flat)} ids")
    return Arrays(numbers, one_hot, flat, counts)


def check_finite(schema: Schema, dense: NDArray[np.float32]) -> None:
    """Check the numbers a model is given: what formats make of infinity and NaN differs.

    Raises:
        SlimtabError: when one is infinite or NaN, naming its column and row.
    """
    wrong = ~np.isfinite(dense)
    if wrong.any():
        row, column = (int(places[0]) for places in wrong.nonzero())
        raise SlimtabError(
            f"column '{schema.numerics[column].name}', row {row}: {dense[row, column]} is no number a model "
            "can take; leave the cell empty if it is missing"
        )


def _array(name: str, found: Any, shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    array = np.asarray(found)
    if array.shape != shape:
        raise SlimtabError(f"{name} has the shape {list(array.shape)}, where {list(shape)} belongs")
    family = np.floating if kind is np.float32 else np.integer
    if array.size and not np.issubdtype(array.dtype, family):
        raise SlimtabError(f"{name} holds {array.dtype}, where {family.__name__} numbers belong")
    return np.ascontiguousarray(array, kind)
