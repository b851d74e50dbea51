"""Pass 2 of prep: every column is fitted on training rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slimtab.data.chunks import Chunk
from slimtab.data.counting import TokenIds, build_vocabulary
from slimtab.data.sketch import DistinctSketch
from slimtab.data.split import Split
from slimtab.data.transforms import Moments
from slimtab.schema import Feature, Numeric


def number_tokens(
    feature: Feature,
    ids: TokenIds,
    chunks: Sequence[Chunk],
    split: Split,
    min_count: int,
    limit: int,
    target: Path,
) -> Feature:
    """Give a feature a vocabulary, unless ``target`` holds it, and return it with its number of ids.

    Arguments are those of :func:`~slimtab.data.counting.build_vocabulary`.
    """
    if target.exists():
        known = pq.read_metadata(target).num_rows - 1
    else:
        known = build_vocabulary(feature.name, chunks, split, min_count, ids, limit, target)
    return dataclasses.replace(feature, num_ids=known + 1)


def estimate_hashes(feature: Feature, chunks: Sequence[Chunk], split: Split) -> Feature:
    """Return a hashed feature with about the number of its distinct tokens."""
    sketch = DistinctSketch()
    for column in _training(feature.name, chunks, split):
        sketch.add((column.flatten() if feature.multi_hot else column).to_numpy())
    return dataclasses.replace(feature, num_ids=sketch.estimate() + 1)


def fit_numeric(numeric: Numeric, chunks: Sequence[Chunk], split: Split) -> Numeric:
    """Return a numeric column with what its transform has to know."""
    if numeric.transform != "standard":
        return numeric
    moments = Moments()
    for column in _training(numeric.name, chunks, split):
        moments.add(column)
    return moments.fit(numeric.name)


def _training(name: str, chunks: Sequence[Chunk], split: Split) -> Iterator[pa.Array]:
    for number, chunk in enumerate(chunks):
        (column,) = chunk.columns(name)
        yield column.take(pa.array(split.rows_of(number, "train")))
