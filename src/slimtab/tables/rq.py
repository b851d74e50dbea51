"""Residual codes: a vector is a sum of codewords, one from each of a few small codebooks.

Chen, Guan & Wang, "Approximate nearest neighbor search by residual vector quantization", Sensors 2010;
trained with straight-through gradients as in van den Oord, Vinyals & Kavukcuoglu, "Neural discrete
representation learning", NeurIPS 2017.

The first stage trains a full table. The second fits the codebooks to it by weighted k-means and goes on
training through the codes: every lookup codes the rows it reads anew, so codes never go stale, and the
gradient of a vector reaches both its codewords and the row behind it.

An id weighs as much as the loss feels an error in its vector: its squared gradients over the first stage, to
the power 3/4 (k-means itself pulls codewords to where weight is dense). On the sports rows that halves what
coding costs, compared with weights by count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.kmeans import nearest, weighted_kmeans
from slimtab.tables.parts.packing import MAX_BITS, pack, packed_bytes, unpack
from slimtab.tables.parts.reading import sum_rows
from slimtab.tables.parts.starts import starts
from slimtab.tables.parts.usage import CodeUse
from slimtab.tables.rows import RowsFactory

_BITS = 8  # of a code at most: 256 codewords a level
_SAMPLE = 1 << 17  # rows that k-means sees at most
_POWER = 0.75  # of the squared gradients; 0.6 to 0.85 do as well on validation, 0.4 and 1 worse
_CHUNK = 1 << 18  # rows coded at a time when freezing


@dataclass(frozen=True)
class RQConfig(TableConfig):
    """Settings of :class:`RQ`.

    Attributes:
        levels: bits of the code at each level; one of b bits has 2^b codewords, shared by all features.
        pull: weight of the penalty that keeps rows and their codes together.
    """

    by_budget = ("levels",)

    levels: tuple[int, ...] = (8,)
    pull: float = 0.25

    @property
    def starts(self) -> list[int]:
        """Where each level's codewords begin, and where the last one's end."""
        return list(accumulate((1 << bits for bits in self.levels), initial=0))

    def serve_bytes(self, ids: int, dim: int) -> int:
        """Return bytes of packed codes and half-precision codewords."""
        return packed_bytes(ids, 1, sum(self.levels)) + 2 * dim * self.starts[-1]

    @classmethod
    def ladder(cls, dim: int, **options: Any) -> Iterator[RQConfig]:
        """Yield all settings, smallest first.

        Eight bits in one code say more than four times two, so a level is filled before the next begins.
        """
        for bits in range(1, min(MAX_BITS, _BITS * max(1, dim // 2)) + 1):
            whole, rest = divmod(bits, _BITS)
            yield cls((_BITS,) * whole + ((rest,) if rest else ()), **options)

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return a bit per id, and two codewords."""
        return cls((1,)).serve_bytes(sum(feature.num_ids for feature in features), dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> RQConfig:
        ids = sum(feature.num_ids for feature in features)
        return [config for config in cls.ladder(dim, **options) if config.serve_bytes(ids, dim) <= nbytes][-1]


class FrozenRQ(FrozenTable):
    """Packed codes and half-precision codewords."""

    codebooks = ("codewords",)

    codes: Tensor
    codewords: Tensor
    offset: Tensor
    start: Tensor
    shift: Tensor
    mask: Tensor

    def __init__(self, codes: Tensor, codewords: Tensor, config: RQConfig, offset: Tensor) -> None:
        """Pack ``codes`` [ids, levels], integers."""
        super().__init__()
        self.bits = sum(config.levels)
        # A code in each byte, as budgets make it.
        self.in_bytes = all(bits == 8 for bits in config.levels[:-1])
        self.ids, self.levels = len(codes), config.levels
        shifts = list(accumulate(config.levels, initial=0))[:-1]
        self.register_buffer("start", torch.tensor(config.starts[:-1]), persistent=False)
        self.register_buffer("shift", torch.tensor(shifts), persistent=False)
        self.register_buffer("mask", torch.tensor([(1 << b) - 1 for b in config.levels]), persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        words = [(chunk << self.shift).sum(dim=1, keepdim=True) for chunk in torch.split(codes, _CHUNK)]
        self.register_buffer("codes", pack(torch.cat(words), self.bits))
        self.register_buffer("codewords", codewords.half())

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        words = unpack(self.codes, self.offset.index_select(0, slot).add_(ids), 1, self.bits)
        if self.in_bytes:
            codes = words.view(torch.uint8)[:, : len(self.start)] + self.start.int()
        else:
            codes = ((words >> self.shift) & self.mask) + self.start
        return sum_rows(self.codewords.float(), codes)

    def stats(self) -> dict[str, float]:
        """Return how many codewords are used, and how evenly."""
        used = CodeUse(1 << bits for bits in self.levels)
        for rows in torch.split(torch.arange(self.ids, device=self.codes.device), _CHUNK):
            used.add((unpack(self.codes, rows, 1, self.bits) >> self.shift) & self.mask)
        return used.stats()


class RQ(EmbeddingTable, method="rq"):
    """A full table while training, a few codes per id when served."""

    kind = "dynamic sharing"
    paper = "Chen et al., Sensors 2010; trained through the codes"
    stages = ("train", "code")
    costly = True
    begins_full = True
    Config = RQConfig
    config: RQConfig
    offset: Tensor
    counts: Tensor
    start: Tensor

    def __init__(
        self,
        config: RQConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        sizes = [feature.num_ids for feature in features]
        self.register_buffer("offset", starts(sizes), persistent=False)
        self.register_buffer("counts", torch.ones(sum(sizes)), persistent=False)
        self.register_buffer("start", torch.tensor(config.starts[:-1]), persistent=False)
        self.rows = make_rows(sum(sizes), dim, init_std)
        self.register_parameter("codewords", None)
        self._apart: Tensor | None = None
        self._epochs = 1.0

    def use_counts(self, counts: Tensor) -> None:
        """Take the counts that tell how often an id's row is touched."""
        self.counts = counts.float()

    def end_stage(self, clock: Clock) -> None:
        """Remember how many passes the first stage has made."""
        self._epochs = clock.step / clock.steps_per_epoch

    def row_like(self) -> list[nn.Parameter]:
        """Codewords move as the rows they stand for."""
        return [] if self.codewords is None else [self.codewords]

    def learning_rates(self) -> tuple[float, float]:
        """Go on carefully once coded: the full table was at its best already."""
        return (1.0, 1.0) if self.stage == "train" else (0.1, 0.1)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]: rows in the first stage, their codes in the second."""
        rows: Tensor = self.rows(ids + self.offset[slot])
        if self.stage == "train":
            return rows
        assert self.codewords is not None
        codewords = _rounded(self.codewords)
        codes = encode(rows.detach(), codewords.detach(), self.config)
        coded = F.embedding_bag(codes + self.start, codewords, mode="sum")
        if torch.is_grad_enabled():
            self._apart = F.mse_loss(coded.detach(), rows) + F.mse_loss(coded, rows.detach())
            coded = coded + (rows - rows.detach())  # straight through
        return coded

    def penalty(self) -> Tensor | None:
        """Return the mean squared distance between the last rows looked up and their codes, weighted."""
        apart, self._apart = self._apart, None
        return None if apart is None else self.config.pull * apart

    def set_stage(self, stage: str) -> None:
        """Fit the codebooks to the trained rows."""
        super().set_stage(stage)
        shape = (self.config.starts[-1], self.dim)
        self.codewords = nn.Parameter(torch.zeros(shape, device=self.offset.device))
        if not self.offset.is_meta:
            with torch.no_grad():
                self._fit()

    def _fit(self) -> None:
        assert self.codewords is not None
        left = self.rows.values()
        weights = self.rows.squared_gradients(self.counts * self._epochs) ** _POWER
        if len(left) > _SAMPLE:
            some = torch.randperm(len(left), device=left.device)[:_SAMPLE]
            left, weights = left[some], weights[some]
        for level, (start, stop) in enumerate(pairwise(self.config.starts)):
            words = weighted_kmeans(left, weights, stop - start, seed=level)
            self.codewords[start:stop] = words
            left = left - _rounded(words)[nearest(left, _rounded(words))]

    @torch.no_grad()
    def freeze(self) -> FrozenTable:
        """Code every row."""
        if self.codewords is None:
            raise SlimtabError(
                "rq has no codes to freeze before its stage 'code'; call set_stage('code') first"
            )
        codewords, config = _rounded(self.codewords), self.config
        if self.offset.is_meta:
            codes = torch.empty(self.rows.num_rows, len(config.levels), dtype=torch.int64, device="meta")
        else:
            chunks = torch.split(self.rows.values(), _CHUNK)
            codes = torch.cat([encode(chunk, codewords, config) for chunk in chunks])
        return FrozenRQ(codes, codewords, config, self.offset)


def encode(vectors: Tensor, codewords: Tensor, config: RQConfig) -> Tensor:
    """Return codes [N, levels] of ``vectors`` [N, dim]: at each level the nearest to what is left."""
    left, codes = vectors, []
    for start, stop in pairwise(config.starts):
        words = codewords[start:stop]
        codes.append(nearest(left, words))
        left = left - words[codes[-1]]
    return torch.stack(codes, dim=1)


def _rounded(words: Tensor) -> Tensor:
    """Return codewords as they are served, in half precision; gradients pass without being rounded too."""
    return words + (words.half().float() - words).detach()
