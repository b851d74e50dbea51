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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.kmeans import nearest, weighted_kmeans
from slimtab.tables.packing import MAX_BITS, pack, packed_bytes, unpack
from slimtab.tables.rows import RowsFactory

_BITS = 8  # of a code at most: 256 codewords a level
_SAMPLE = 1 << 17  # rows that k-means sees at most
_POWER = 0.75  # of the squared gradients; 0.6 to 0.85 do as well on validation, 0.4 and 1 worse
_CHUNK = 1 << 18  # rows coded at a time when freezing


@dataclass(frozen=True)
class RQConfig(TableConfig):
    """Settings of :class:`RQ`.

    Attributes:
        levels: codewords summed for each id.
        bits: of each code; a level has 2^bits codewords, shared by all features.
        pull: weight of the penalty that keeps rows and their codes together.
    """

    by_budget = ("levels", "bits")

    levels: int = 1
    bits: int = 8
    pull: float = 0.25

    def serve_bytes(self, ids: int, dim: int) -> int:
        """Return bytes of packed codes and half-precision codebooks."""
        return packed_bytes(ids, self.levels, self.bits) + 2 * dim * (self.levels << self.bits)

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one level of two codewords: a bit per id."""
        return cls(1, 1).serve_bytes(sum(feature.num_ids for feature in features), dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> RQConfig:
        ids = sum(feature.num_ids for feature in features)
        most = max(1, min(dim // 2, MAX_BITS // _BITS))
        settings = [
            cls(levels, bits, **options) for levels in range(1, most + 1) for bits in range(1, _BITS + 1)
        ]
        fitting = [config for config in settings if config.serve_bytes(ids, dim) <= nbytes]
        # Ten bits in one code say more than two times five: larger codebooks first, then more of them.
        return max(fitting, key=lambda config: (config.bits, config.levels))


class FrozenRQ(FrozenTable):
    """Packed codes and half-precision codebooks."""

    codes: Tensor
    codebook: Tensor
    offset: Tensor

    def __init__(self, codes: Tensor, codebook: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.levels, words, _ = codebook.shape
        self.bits = words.bit_length() - 1
        self.register_buffer("codes", codes)
        self.register_buffer("codebook", codebook.half())
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        codes = unpack(self.codes, ids + self.offset[slot], self.levels, self.bits)
        return sum_codewords(codes, self.codebook.float())


def sum_codewords(codes: Tensor, codebook: Tensor) -> Tensor:
    """Return [N, dim]: the sum of the codewords of ``codes`` [N, levels] in ``codebook`` [levels, K, dim]."""
    levels, words, _ = codebook.shape
    base = words * torch.arange(levels, device=codes.device)
    return F.embedding_bag(codes + base, codebook.flatten(0, 1), mode="sum")


class RQ(EmbeddingTable, method="rq"):
    """A full table while training, a few codes per id when served."""

    kind = "dynamic sharing"
    paper = "Chen et al., Sensors 2010; trained through the codes"
    stages = ("train", "code")
    costly = True
    Config = RQConfig
    config: RQConfig
    offset: Tensor
    counts: Tensor

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
        self.register_buffer("offset", torch.tensor([0, *accumulate(sizes)][:-1]), persistent=False)
        self.register_buffer("counts", torch.ones(sum(sizes)), persistent=False)
        self.rows = make_rows(sum(sizes), dim, init_std)
        self.register_parameter("codebook", None)
        self._apart: Tensor | None = None
        self._epochs = 1.0

    def use_counts(self, counts: Tensor) -> None:
        """Take the counts that tell how often an id's row is touched."""
        self.counts = counts.float()

    def on_step(self, clock: Clock) -> None:
        """Remember how many passes the first stage has made."""
        if self.stage == "train":
            self._epochs = (clock.step + 1) / clock.steps_per_epoch

    def row_like(self) -> list[nn.Parameter]:
        """Codewords move as the rows they stand for."""
        return [] if self.codebook is None else [self.codebook]

    def learning_rates(self) -> tuple[float, float]:
        """Go on carefully once coded: the full table was at its best already."""
        return (1.0, 1.0) if self.stage == "train" else (0.1, 0.1)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]: rows in the first stage, their codes in the second."""
        rows: Tensor = self.rows(ids + self.offset[slot])
        if self.stage == "train":
            return rows
        assert self.codebook is not None
        codebook = _rounded(self.codebook)
        coded = sum_codewords(encode(rows.detach(), codebook.detach()), codebook)
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
        shape = (self.config.levels, 1 << self.config.bits, self.dim)
        self.codebook = nn.Parameter(torch.zeros(shape, device=self.offset.device))
        if not self.offset.is_meta:
            with torch.no_grad():
                self._fit()

    def _fit(self) -> None:
        assert self.codebook is not None
        left = self.rows.values()
        weights = self.rows.squared_gradients(self.counts * self._epochs) ** _POWER
        if len(left) > _SAMPLE:
            some = torch.randperm(len(left), device=left.device)[:_SAMPLE]
            left, weights = left[some], weights[some]
        for level, book in enumerate(self.codebook):
            book.copy_(weighted_kmeans(left, weights, len(book), seed=level))
            left = left - _rounded(book)[nearest(left, _rounded(book))]

    @torch.no_grad()
    def freeze(self) -> FrozenTable:
        """Code every row."""
        config = self.config
        if self.codebook is None:
            raise SlimtabError(
                "rq has no codes to freeze before its stage 'code'; call set_stage('code') first"
            )
        codebook = _rounded(self.codebook)
        if self.offset.is_meta:
            codes = torch.empty(self.rows.num_rows, config.levels, dtype=torch.int64, device="meta")
        else:
            codes = torch.cat([encode(chunk, codebook) for chunk in torch.split(self.rows.values(), _CHUNK)])
        return FrozenRQ(pack(codes, config.bits), codebook, self.offset)


def encode(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return codes [N, levels] of ``vectors`` [N, dim]: at each level the nearest to what is left."""
    left, codes = vectors, []
    for book in codebook:
        codes.append(nearest(left, book))
        left = left - book[codes[-1]]
    return torch.stack(codes, dim=1)


def _rounded(codebook: Tensor) -> Tensor:
    """Return the codebook as it is served, in half precision; gradients pass without being rounded too."""
    return codebook + (codebook.half().float() - codebook).detach()
