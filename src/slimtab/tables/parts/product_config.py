"""How product codes spend a budget: parts, pieces of the codebook, and which features stay full."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from slimtab.schema import Feature
from slimtab.tables.base import TableConfig
from slimtab.tables.parts.codes import packed_code_bytes

_LEAST_BITS, _MOST_BITS = 5, 8  # of a code, where there are several parts
# Features of up to this many ids per unit of the share that codes take of full rows stay full, as in `hash`.
_EXACT_PER_SHARE = 2000


@dataclass(frozen=True)
class ProductConfig(TableConfig):
    """What tables of product codes share.

    Attributes:
        parts: pieces that make a vector; a power of two that divides ``dim``.
        codes: pieces of the codebook to choose from for each part; 0 when all features are full.
        exact: whether each feature is kept full.
    """

    by_budget = ("parts", "codes", "exact")
    least_bits: ClassVar[int] = 1  # of a code

    parts: int = 1
    codes: int = 0
    exact: tuple[bool, ...] = ()

    def hot_ids(self, num_ids: int) -> int:
        """Return how many ids of a feature, counted from 0, may use all codes; the others use a quarter."""
        return num_ids

    def code_bits(self) -> tuple[int, int]:
        """Return the bits of a code of a hot id, and of another."""
        bits = (self.codes - 1).bit_length()
        return bits, max(bits - 2, 0)

    def coded_ids(self, features: Sequence[Feature]) -> tuple[list[int], list[int]]:
        """Return the numbers of hot and of other ids that have codes, for each feature."""
        sizes = [0 if exact else f.num_ids for f, exact in zip(features, self.exact, strict=True)]
        hot = [self.hot_ids(size) for size in sizes]
        return hot, [size - few for size, few in zip(sizes, hot, strict=True)]

    def nbytes(self, features: Sequence[Feature], dim: int) -> int:
        """Return the bytes of codes, codebook and full rows."""
        rows = sum(f.num_ids for f, exact in zip(features, self.exact, strict=True) if exact)
        packed = sum(
            packed_code_bytes(sum(ids), self.parts, bits)
            for ids, bits in zip(self.coded_ids(features), self.code_bits(), strict=True)
        )
        return 4 * dim * (rows + self.codes) + packed

    def with_exact(self, exact: Sequence[bool]) -> Self:
        """Return the same with other features full; a codebook that none needs is left out."""
        return dataclasses.replace(self, exact=tuple(exact), codes=0 if all(exact) else self.codes)

    @classmethod
    def _ladder(cls, features: Sequence[Feature], dim: int, **options: Any) -> list[Self]:
        """Return settings from the fewest bits per id to the most; the last keeps everything full.

        Parts with few codes each are left out: half as many parts with twice the bits are the better code.
        So are parts of single floats, whose codes would be a slow way of rounding to eight bits.
        """
        ladder = []
        for parts in (1 << power for power in range(max(dim.bit_length() - 1, 1))):
            for bits in range(cls.least_bits if parts == 1 else _LEAST_BITS, _MOST_BITS + 1):
                if dim % parts == 0:
                    limit = _EXACT_PER_SHARE * parts * bits / (32 * dim)
                    step = cls(parts=parts, codes=1 << bits, **options)
                    ladder.append(step.with_exact([feature.num_ids <= limit for feature in features]))
        return [*ladder, ladder[0].with_exact([True] * len(features))]

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the size of the smallest step."""
        return min(step.nbytes(features, dim) for step in cls._ladder(features, dim, **options))

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> Self:
        ladder = cls._ladder(features, dim, **options)
        config = next(step for step in reversed(ladder) if step.nbytes(features, dim) <= nbytes)
        # What is left over makes more features full, the smallest first.
        exact = list(config.exact)
        for slot in sorted(range(len(features)), key=lambda slot: features[slot].num_ids):
            exact[slot] = True
            if config.with_exact(exact).nbytes(features, dim) > nbytes:
                break
            config = config.with_exact(exact)
        return config
