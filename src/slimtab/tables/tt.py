"""TT-Rec: a feature's table as a train of three small tensors, multiplied out for the ids that are asked for.

Yin et al., "TT-Rec: tensor train compression for deep learning recommendation models", MLSys 2021. Three
digits of the id choose a matrix from each core: e(x) = G1[i1] · G2[i2] · G3[i3], shapes (d1, R), (R, d2·R)
and (R, d3), so that a row of d1·d2·d3 floats comes out. All compressed features have the same rank R, and
so their cores stand in three tensors.

Digits: with x = a + n1·b + n1·n2·c, as usual, i1 = a, i2 = (b + a) mod n2 and i3 = (c + b) mod n3. The most
frequent ids come first; left as they are, the first n1·n2 of them, with c = 0, would share one third matrix,
and the first n1 of those one middle matrix too. So shifted, every block of n1·n2 ids in a row is a Latin
square: any two of them share one digit at most.

Decay: a product of three loses what each of its factors loses, thrice over, and near zero it has no slope
that would bring it back. So each core takes a third of the rows' decay, and vectors shrink as rows do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.blocks import Blocks, make_blocks
from slimtab.tables.parts.distinct import distinct
from slimtab.tables.parts.sizing import largest
from slimtab.tables.rows.base import RowsFactory

_BLOCK = 32  # pairs that share a copy of a middle matrix
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class TTConfig(TableConfig):
    """Settings of :class:`TT`.

    Attributes:
        rank: of both joints of every train. A feature that would not get smaller stays full; at 0 all do.
    """

    by_budget = ("rank",)

    rank: int = 0

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return what rank 1 takes."""
        return 4 * _total_floats([f.num_ids for f in features], dim, cls(**{**options, "rank": 1}).rank)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> TTConfig:
        sizes = [feature.num_ids for feature in features]
        if 4 * dim * sum(sizes) <= nbytes:
            return cls(**options)
        return cls(**{**options, "rank": useful_rank(sizes, dim, largest_rank(sizes, dim, nbytes // 4))})


def largest_rank(sizes: Sequence[int], dim: int, floats: int) -> int:
    """Return the largest rank whose cores and full features take at most ``floats``."""
    return largest(
        lambda rank: _total_floats(sizes, dim, rank) <= floats, 1, math.isqrt(max(sizes) * dim) + 1
    )


def useful_rank(sizes: Sequence[int], dim: int, rank: int) -> int:
    """Return ``rank``, or the largest one that still adds something to any of the compressed features.

    The first joint of a train has at most n1·d1 independent directions.
    """
    d1 = split_width(dim)[0]
    bounds = [split_ids(n)[0] * d1 for n in sizes if core_floats(n, dim, rank) < n * dim]
    return min(rank, max(bounds, default=rank))


def split_ids(num_ids: int) -> Triple:
    """Return three nearly equal numbers, ascending, whose product is at least ``num_ids``."""
    a = round(num_ids ** (1 / 3))
    a += a**3 < num_ids
    b = math.isqrt(-(-num_ids // a) - 1) + 1  # ceil(√(n / a)) in whole numbers
    first, second, third = sorted((a, b, -(-num_ids // (a * b))))
    return first, second, third


@cache
def split_width(dim: int) -> Triple:
    """Return the three most nearly equal numbers, ascending, whose product is ``dim``."""
    pairs = [(a, b) for a in _divisors(dim) for b in _divisors(dim // a) if a <= b <= dim // (a * b)]
    a, b = min(pairs, key=lambda pair: pair[0] + pair[1] + dim // (pair[0] * pair[1]))
    return a, b, dim // (a * b)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def core_floats(num_ids: int, dim: int, rank: int) -> int:
    """Return the floats of the three cores of a feature."""
    (n1, n2, n3), (d1, d2, d3) = split_ids(num_ids), split_width(dim)
    return rank * (n1 * d1 + n2 * d2 * rank + n3 * d3)


def _total_floats(sizes: Sequence[int], dim: int, rank: int) -> int:
    return sum(min(n * dim, core_floats(n, dim, rank)) for n in sizes)


class _Digits(nn.Module):
    """From an id to its places in the cores, or in the table of the full features.

    Attributes:
        cores: rows of each core [3].
        full_rows: ids of all full features.
        whole: whether a feature is full [F].
    """

    split: Tensor
    offset: Tensor
    full: Tensor

    def __init__(self, features: Sequence[Feature], dim: int, rank: int) -> None:
        super().__init__()
        sizes = [feature.num_ids for feature in features]
        full = [not 0 < core_floats(n, dim, rank) < n * dim for n in sizes]
        splits = [(0, 0, 0) if whole else split_ids(n) for n, whole in zip(sizes, full, strict=True)]
        rows = [*zip(*splits, strict=True), [n * whole for n, whole in zip(sizes, full, strict=True)]]
        starts = [list(accumulate(column, initial=0)) for column in rows]
        self.cores, self.full_rows = [start[-1] for start in starts[:3]], starts[3][-1]
        self.whole = full
        self.register_buffer("split", torch.tensor(rows[:3]).clamp(min=1), persistent=False)
        self.register_buffer("offset", torch.tensor([start[:-1] for start in starts]), persistent=False)
        self.register_buffer("full", torch.tensor(full), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of the three cores, each [N] int64, for ids of compressed features."""
        (n1, n2, n3), offset = self.split[:, slot], self.offset[:, slot]
        rest = ids // n1
        a = ids - rest * n1
        c = rest // n2
        b = rest - c * n2
        return a + offset[0], (b + a) % n2 + offset[1], (c + b) % n3 + offset[2]


def _join_two(first: Tensor, middle: Tensor, row: Tensor, blocks: Blocks, rank: int) -> Tensor:
    """Return G1[i1] · G2[i2] for pairs whose first-core rows are ``row`` [P]: [P, d1 · d2 · R].

    Args:
        first: G1 [n1, d1 · R].
        middle: G2 [n2, R · d2 · R].
        row: row in G1 of each pair, in the order of ``blocks``.
        blocks: pairs by their row in G2.
        rank: R.
    """
    # F.embedding throughout: the gradient of index_select is ten times as slow.
    left = torch.unflatten(F.embedding(blocks.spread(row), first), 2, (-1, rank)).flatten(1, 2)
    right = torch.unflatten(F.embedding(blocks.matrix, middle), 1, (rank, -1))
    joined = torch.unflatten(torch.bmm(left, right), 1, (blocks.size, -1)).flatten(2)
    return F.embedding(blocks.place, joined.flatten(0, 1))


def _join_third(joined: Tensor, third: Tensor, row: Tensor, rank: int) -> Tensor:
    """Return ``joined`` [N, d1 · d2 · R] · G3[i3]: [N, dim]."""
    right = torch.unflatten(F.embedding(row, third), 1, (rank, -1))
    return torch.bmm(torch.unflatten(joined, 1, (-1, rank)), right).flatten(1)


class _FrozenTT(FrozenTable):
    """The cores, and the rows of full features."""

    costly = True
    codebooks = ("first", "middle", "third")

    first: Tensor
    middle: Tensor
    third: Tensor
    weight: Tensor

    def __init__(self, digits: _Digits, rank: int, cores: Sequence[Tensor], weight: Tensor) -> None:
        super().__init__()
        self.digits, self.rank = digits, rank
        for name, value in zip(("first", "middle", "third", "weight"), (*cores, weight), strict=True):
            self.register_buffer(name, value)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        full = self.digits.full[slot]
        plain = trained = None
        if self.digits.full_rows:
            plain = F.embedding((ids + self.digits.offset[3][slot]).where(full, 0), self.weight)
        if self.rank:
            # Ids of full features go along as a group of their own, with any numbers, and are left out.
            first, middle, third = (row.where(~full, 0) for row in self.digits(ids, slot))
            ascending, order = torch.sort(middle.where(~full, len(self.middle)), stable=True)
            blocks = make_blocks(ascending, len(self.middle) + 1, _BLOCK, exact=False)
            blocks = blocks._replace(matrix=blocks.matrix.clamp(max=len(self.middle) - 1))
            joined = _join_two(self.first, self.middle, first[order], blocks, self.rank)
            back = torch.empty_like(order).scatter(
                0, order, torch.arange(order.shape[0], device=order.device)
            )
            trained = _join_third(joined.index_select(0, back), self.third, third, self.rank)
        if plain is None or trained is None:
            return plain if trained is None else trained  # type: ignore[return-value]
        return torch.where(full[:, None], plain, trained)


class TT(EmbeddingTable, method="tt"):
    """Three cores for each large feature, and plain rows for the small ones."""

    kind = "static sharing"
    costly = True
    paper = "Yin et al., MLSys 2021"
    Config = TTConfig

    def __init__(
        self,
        config: TTConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        rank = self.rank = config.rank
        self.digits = _Digits(features, dim, rank)
        self.rows = make_rows(self.digits.full_rows, dim, init_std)
        d1, d2, d3 = split_width(dim)
        # Each output is a sum of R² products of three: init_std² = σ⁶ · R².
        deviation = (init_std / max(rank, 1)) ** (1 / 3)
        widths = (d1 * rank, rank * d2 * rank, rank * d3)
        self.cores = nn.ParameterList(
            nn.Parameter(torch.empty(rows, width).normal_(0.0, deviation))
            for rows, width in zip(self.digits.cores, widths, strict=True)
            if rank
        )

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        full = self.digits.full[slot]
        vectors = torch.zeros(len(ids), self.dim, device=ids.device)
        at = full.nonzero().squeeze(1)
        if len(at):
            vectors = vectors.index_copy(0, at, self.rows(ids[at] + self.digits.offset[3][slot[at]]))
        at = (~full).nonzero().squeeze(1)
        if len(at):
            vectors = vectors.index_copy(0, at, self._multiply(ids[at], slot[at]))
        return vectors

    def _multiply(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim] of compressed features; each pair of first and middle is joined once."""
        first, middle, third = self.digits(ids, slot)
        pairs = distinct(middle * self.digits.cores[0] + first)
        group, row = pairs.values // self.digits.cores[0], pairs.values % self.digits.cores[0]
        blocks = make_blocks(group, self.digits.cores[1], _BLOCK, exact=True)
        joined = _join_two(self.cores[0], self.cores[1], row, blocks, self.rank)
        return _join_third(pairs.expand(joined), self.cores[2], third, self.rank)

    def row_like(self) -> list[tuple[nn.Parameter, int]]:
        """Return the cores."""
        return [(core, 3) for core in self.cores]

    def freeze(self) -> FrozenTable:
        """Return cores and rows as buffers."""
        cores = [core.detach().clone() for core in self.cores] or [torch.empty(0)] * 3
        return _FrozenTT(self.digits, self.rank, cores, self.rows.values())

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of each feature's own cores or rows."""
        sizes, full = [f.num_ids for f in self.features], self.digits.whole
        return [
            4 * (n * self.dim if whole else core_floats(n, self.dim, self.rank))
            for n, whole in zip(sizes, full, strict=True)
        ]

    def stats(self) -> dict[str, float]:
        """Return the rank, and the share of features that stay full."""
        full = self.digits.whole
        return {"rank": self.rank, "full_features": sum(full) / len(full)}
