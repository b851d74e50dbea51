"""Which split each row belongs to, for any chunk of rows, without a list of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimtab.data.options import PrepOptions
from slimtab.schema import SPLITS


@dataclass(frozen=True)
class Split:
    """The split of rows that come in chunks.

    Attributes:
        starts: number of rows before each chunk, and of all rows at the end [chunks + 1].
        bounds: under a split by order, where train, valid and test end; empty under a random split.
        shares: shares of train, valid and test.
        seed: of the random split.
    """

    starts: tuple[int, ...]
    bounds: tuple[int, ...]
    shares: tuple[float, float, float]
    seed: int

    @classmethod
    def of(cls, rows: Sequence[int], options: PrepOptions, bounds: tuple[int, ...] | None = None) -> Split:
        """Build the split of chunks with these numbers of rows; ``bounds`` overrides the shares."""
        starts = tuple(np.cumsum([0, *rows]).tolist())
        total = starts[-1]
        if options.split == "random":
            bounds = ()
        elif bounds is None:
            # The epsilon keeps 80 % of 1000 at 800 where 0.8 · 1000 falls short of it.
            bounds = (
                int(total * options.train + 1e-6),
                int(total * (options.train + options.valid) + 1e-6),
                total,
            )
        return cls(starts, bounds, (options.train, options.valid, options.test), options.seed)

    def rows_of(self, chunk: int, name: str) -> np.ndarray:
        """Return the positions [n] int64, in order, of this chunk's rows that belong to the split."""
        which = SPLITS.index(name)
        start, end = self.starts[chunk], self.starts[chunk + 1]
        if self.bounds:
            low, high = (0, *self.bounds)[which : which + 2]
            return np.arange(max(low, start), max(min(high, end), max(low, start))) - start
        draws = _uniform(np.arange(start, end, dtype=np.uint64), self.seed)
        edges = np.cumsum(self.shares)[:2]
        return np.flatnonzero(np.searchsorted(edges, draws, side="right") == which)

    def count(self, chunk: int, name: str) -> int:
        """Return how many of this chunk's rows belong to the split."""
        return len(self.rows_of(chunk, name))


def _uniform(counter: np.ndarray, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each counter: SplitMix64, so that any row's is had without the others."""
    start = np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    state = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + start
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    draws: np.ndarray = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    return draws
