"""From raw columns to what each schema column is made of: numbers, tokens or token lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimtab.data.layout import is_derived
from slimtab.data.tokens import as_token_lists, as_tokens
from slimtab.data.transforms import bucket_tokens
from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Feature, Schema


def raw_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column of a raw table.

    Raises:
        SlimtabError: when it is not there.
    """
    try:
        return table[name]
    except KeyError:
        names = table.column_names
        raise SlimtabError(f"the rows have no column '{name}'{nearest(name, names)}") from None


def tokens_of(table: pa.Table, schema: Schema, feature: Feature) -> pa.DictionaryArray | pa.ListArray:
    """Return a feature's tokens, dictionary-encoded [N]; for multi-hot features lists of such."""
    if is_derived(schema.raw.kind, feature.name):
        return _time_tokens(table, feature.name)
    column = raw_column(table, feature.name)
    if feature.bucketise:
        return bucket_tokens(column)
    if feature.multi_hot:
        lists = as_token_lists(column, schema.raw.list_separator)
        return pa.ListArray.from_arrays(lists.offsets, lists.values.dictionary_encode())
    return as_tokens(column).dictionary_encode()


def labels_of(table: pa.Table, schema: Schema) -> pa.Array:
    """Return the labels [N] int8."""
    return raw_column(table, schema.raw.label).cast(pa.int8()).combine_chunks()


def _time_tokens(table: pa.Table, name: str) -> pa.DictionaryArray:
    """Split Avazu's ``hour`` (YYMMDDHH) into the hour of the day and the day of the week (Monday is 0)."""
    stamps: Any = raw_column(table, "hour").cast(pa.int64()).combine_chunks()
    encoded = stamps.dictionary_encode()
    unique = encoded.dictionary.to_numpy()
    if name == "hour":
        values = unique % 100
    else:
        dates = unique // 100 + 20_000_000
        months = (dates // 10_000 - 1970) * 12 + dates // 100 % 100 - 1
        days = months.astype("datetime64[M]").astype("datetime64[D]") + (dates % 100 - 1)
        # 1970-01-01 was a Thursday, day 3.
        values = (days.astype(np.int64) + 3) % 7
    tokens = pa.array(values).cast(pa.string()).take(encoded.indices)
    return pc.fill_null(tokens, "").dictionary_encode()
