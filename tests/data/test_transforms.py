"""Numeric transforms against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimtab.data.sketch import DistinctSketch
from slimtab.data.tokens import hash_tokens
from slimtab.data.transforms import Moments, bucket_tokens, transform
from slimtab.schema import Numeric

numbers = st.lists(st.none() | st.integers(-1000, 10**9), max_size=50)


@given(numbers)
def test_log1p(values: list[int | None]) -> None:
    expected = [math.log1p(max(value or 0, 0)) for value in values]
    found = transform(Numeric("x"), pa.array(values, pa.int64()))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(st.lists(st.none() | st.integers(-1000, 10**9) | st.floats(-1e6, 1e6), max_size=50))
def test_bucket(values: list[float | None]) -> None:
    def bucket(value: float | None) -> str:
        if value is None:
            return ""
        return str(math.floor(math.log(value) ** 2) if value > 2 else int(value))

    column = pa.array([None if value is None else float(value) for value in values], pa.float64())
    assert bucket_tokens(column).to_pylist() == [bucket(value) for value in values]


@given(st.lists(numbers, min_size=1, max_size=5))
def test_standard_fits_over_chunks_what_it_fits_at_once(chunks: list[list[int | None]]) -> None:
    moments = Moments()
    for chunk in chunks:
        moments.add(pa.array(chunk, pa.int64()))
    fitted = moments.fit("x")
    present = [value for chunk in chunks for value in chunk if value is not None]
    assert fitted.mean == pytest.approx(np.mean(present) if present else 0.0, rel=1e-9, abs=1e-6)
    std = float(np.std(present)) if present else 0.0
    assert fitted.std == pytest.approx(std, rel=1e-6) or (std < 1e-3 and fitted.std == 1.0)


def test_standard_gives_missing_values_the_mean() -> None:
    numeric = Numeric("x", "standard", mean=10.0, std=2.0)
    assert transform(numeric, pa.array([14.0, None, math.nan, 10.0])).tolist() == [2.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("distinct", [0, 1, 4095, 200_000])
def test_sketch_counts_distinct_hashes(distinct: int) -> None:
    hashes = hash_tokens(pa.array([str(i) for i in range(distinct)], pa.string()), 3)
    sketch = DistinctSketch()
    for part in np.array_split(np.concatenate([hashes, hashes[::2]]), 7):
        sketch.add(part)
    assert sketch.estimate() == pytest.approx(distinct, rel=0.0 if distinct < 4096 else 0.06)
