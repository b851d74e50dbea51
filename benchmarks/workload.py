"""The rows that every contender of the training benchmark sees: Criteo's shape, from a seed, NumPy only."""

import argparse

import numpy as np

import rows

# Ids per categorical column of Criteo Kaggle. Three columns hold most of them, many hold a handful, and it
# is that imbalance (not the total alone) that decides what an embedding step costs.
CRITEO_CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
FEATURES = len(CRITEO_CARDINALITIES)
DENSE = 13
BATCH = 4096
SMALLEST = 4
CLICK_RATE = 0.25


def sizes(total: int) -> list[int]:
    """Ids of each of the 26 features: Criteo's split, scaled to `total` ids with at least 4 per feature."""
    scale = total / sum(CRITEO_CARDINALITIES)
    split = [max(SMALLEST, int(n * scale)) for n in CRITEO_CARDINALITIES]
    largest = split.index(max(split))
    split[largest] += total - sum(split)  # what rounding and the minimum moved, so that the sum is exact
    if split[largest] < max(split):
        raise ValueError(f"{total} ids are too few to split like Criteo's; take 1000 or more")
    return split


def batches(
    total: int, count: int, batch: int = BATCH, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make `count` batches.

    Returns ids [count, batch, 26] int64, dense [count, batch, 13] float32 and label [count, batch] float32.

    An id's rank is log-uniform over its feature (Zipf with exponent 1): every decade of ranks is equally
    likely, so a feature with a million ids draws half of them beyond rank 1000. Ranks are then scattered
    over the table, because frequent ids that lie side by side would flatter the cache. A batch of 4096 rows
    touches 14 thousand distinct ids of 0.5 M, 21 thousand of 3.6 M; real Criteo rows touch 23 thousand.
    """
    rng = np.random.default_rng(seed)
    ids = np.empty((count, batch, FEATURES), np.int64)
    for feature, size in enumerate(sizes(total)):
        rank = np.minimum(((size + 1) ** rng.random((count, batch))).astype(np.int64) - 1, size - 1)
        ids[:, :, feature] = (rank * _coprime_stride(size) + feature) % size
    dense = rng.standard_normal((count, batch, DENSE), dtype=np.float32)
    label = (rng.random((count, batch)) < CLICK_RATE).astype(np.float32)
    return ids, dense, label


def feed(options: argparse.Namespace) -> tuple[list[int], rows.Rows]:
    """Number of ids of each feature, and batches to train on, stacked, as a worker's arguments ask for them.

    They come from the prepared rows of `--data` where it is given, and are made as above where it is not.
    """
    if options.data is None:
        made = batches(options.ids, options.batches, options.batch, options.seed)
        return sizes(options.ids), rows.Rows(*made)
    whole = rows.shuffled(rows.read(options.data, "train"), options.batch, options.seed)[: options.batches]
    whole = [batch for batch in whole if len(batch.label) == options.batch]
    return rows.columns(options.data)[0], rows.Rows(*map(np.stack, zip(*whole, strict=True)))


def _coprime_stride(size: int) -> int:
    """A step near the golden section of `size` that visits every id once, so the scatter is one to one."""
    stride = max(1, int(size * 0.618))
    while np.gcd(stride, size) != 1:
        stride += 1
    return stride
