"""Numeric columns: ln(1 + x), standardised, or as bucket tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from slimtab.schema import Numeric


def as_numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a numeric column's values [N] float64 (0 where missing) and which are present [N] bool."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    present = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    if missing.any():
        present, values = present & ~missing, np.where(missing, 0.0, values)
    return values, present


def transform(numeric: Numeric, column: Any) -> np.ndarray:
    """Return the model's input for a raw numeric column [N] float32, 0 where missing."""
    values, present = as_numbers(column)
    if numeric.transform == "log1p":
        scaled = np.log1p(np.maximum(values, 0.0))
    else:
        scaled = np.where(present, (values - numeric.mean) / numeric.std, 0.0)
    result: np.ndarray = scaled.astype(np.float32)
    return result


def bucket_tokens(column: Any) -> pa.DictionaryArray:
    """Turn numbers into bucket tokens: ⌊ln(x)²⌋ above 2, else x cut to an integer; missing is ``""``.

    The rule of the winners of the Criteo challenge (3 Idiots, 2014), as later libraries take it.
    """
    values, present = as_numbers(column)
    large = values > 2
    buckets = np.trunc(np.clip(values, -(2.0**53), 2.0)).astype(np.int64)
    buckets[large] = np.floor(np.log(values[large]) ** 2).astype(np.int64)
    encoded = pa.array(buckets, mask=~present).dictionary_encode(null_encoding="encode")
    tokens = encoded.dictionary.cast(pa.string()).fill_null("")
    return pa.DictionaryArray.from_arrays(encoded.indices, tokens)


@dataclass
class Moments:
    """Count, mean and summed squared deviation of the numbers seen so far."""

    count: int = 0
    mean: float = 0.0
    deviation: float = 0.0

    def add(self, column: Any) -> None:
        """Add the present values of a raw numeric column (the pairwise update of Chan et al., 1979)."""
        values, present = as_numbers(column)
        values = values[present]
        if len(values) == 0:
            return
        mean = float(values.mean())
        total, step = self.count + len(values), mean - self.mean
        self.deviation += float(((values - mean) ** 2).sum()) + step * step * self.count * len(values) / total
        self.mean += step * len(values) / total
        self.count = total

    def fit(self, name: str) -> Numeric:
        """Return the column with these moments as its fitted transform."""
        std = math.sqrt(self.deviation / self.count) if self.count else 0.0
        return Numeric(name, "standard", self.mean, std if std > 0 else 1.0)
