"""Residual codes: a vector is a sum of codewords, one from each of a few small codebooks.

Chen, Guan & Wang, "Approximate nearest neighbor search by residual vector quantization", Sensors 2010;
trained with straight-through gradients as in van den Oord, Vinyals & Kavukcuoglu, "Neural discrete
representation learning", NeurIPS 2017.

The first stage trains a full table. The second fits the codebooks to it by weighted k-means and goes on
training through the codes: every lookup codes the rows it reads anew, so codes never go stale, and the
gradient of a vector reaches both its codewords and the row behind it.

An id weighs as much as the loss feels an error in its vector: its squared gradients over the first stage, to
the power 0.6 (k-means itself pulls codewords to where weight is dense). On the sports rows that halves what
coding costs, compared with weights by count.

Before codes are fitted the table chooses who shares codewords: all features, or none, with bits by feature
(:mod:`slimtab.tables.parts.own_codes`), whichever loses less in as many bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.code_shapes import choose_shapes, shape_losses
from slimtab.tables.parts.common_codes import FrozenCommonCodes
from slimtab.tables.parts.own_codes import Shape, bytes_by_feature, freeze_own_codes, sum_own_codes
from slimtab.tables.parts.packing import MAX_BITS, packed_bytes
from slimtab.tables.parts.residual import as_served, encode, encode_all, fit_levels, level_starts, sample
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory

_BITS = 8  # of a code at most: 256 codewords a level
_SAMPLE = 1 << 17  # rows that k-means sees at most …
_TRIED = 1 << 15  # … and of each feature while shapes are tried
_POWER = 0.6  # of the squared gradients; 0.5 and 0.75 do nearly as well on validation, 0.35 and 1 worse


@dataclass(frozen=True)
class RQConfig(TableConfig):
    """Settings of :class:`RQ`.

    Attributes:
        levels: bits of the code at each level; one of b bits has 2^b codewords, shared by all features.
        own: whether features may have codewords of their own.
        own_bits: of a level of each feature, where each has codewords of its own. Empty where all share, or
            where it is chosen after the first stage, within the bytes of ``levels``.
        own_levels: of each feature, likewise.
        pull: weight of the penalty that keeps rows and their codes together.
    """

    by_budget = ("levels",)

    levels: tuple[int, ...] = (8,)
    own: bool = True
    own_bits: tuple[int, ...] = ()
    own_levels: tuple[int, ...] = ()
    pull: float = 0.25

    @property
    def starts(self) -> list[int]:
        """Where each common level's codewords begin, and where the last one's end."""
        return level_starts(self.levels)

    @property
    def shapes(self) -> list[Shape]:
        """The codes of each feature that has codewords of its own."""
        return [Shape(*shape) for shape in zip(self.own_bits, self.own_levels, strict=True)]

    def with_shapes(self, shapes: Sequence[Shape]) -> RQConfig:
        """Return these settings with codewords of each feature's own."""
        bits, levels = zip(*shapes, strict=True)
        return replace(self, own_bits=bits, own_levels=levels)

    def serve_bytes(self, ids: int, dim: int) -> int:
        """Return bytes of packed codes and half-precision codewords where all features share."""
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
        """Return a bit per id and two codewords, or what it takes to give features the shapes named."""
        sizes, named = [feature.num_ids for feature in features], cls((1,), **options)
        if not named.own_bits and not named.own_levels:
            return named.serve_bytes(sum(sizes), dim)
        for name, numbers in (("own_bits", named.own_bits), ("own_levels", named.own_levels)):
            if len(numbers) != len(sizes):
                raise SlimtabError(
                    f"rq's {name} has {len(numbers)} numbers for {len(sizes)} features; give one for each"
                )
        for bits, levels in named.shapes:
            if not (_counts(bits) and _counts(levels) and bits <= _BITS and bits * levels <= MAX_BITS):
                raise SlimtabError(
                    f"rq cannot code a feature in {levels!r} levels of {bits!r} bits; a level has 1 to "
                    f"{_BITS} bits, all of them at most {MAX_BITS}"
                )
        return sum(bytes_by_feature(named.shapes, sizes, dim))

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> RQConfig:
        ids = sum(feature.num_ids for feature in features)
        found, *larger = cls.ladder(dim, **options)
        return [found, *(config for config in larger if config.serve_bytes(ids, dim) <= nbytes)][-1]


class Losses(NamedTuple):
    """Weighted squared errors: of each feature's rows in shapes of its own, of all with common codewords."""

    own: list[dict[Shape, float]]
    common: float


def _counts(number: object) -> bool:
    return type(number) is int and number > 0


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
        self._sizes = [feature.num_ids for feature in features]
        self.register_buffer("offset", starts(self._sizes), persistent=False)
        self.register_buffer("counts", torch.ones(sum(self._sizes)), persistent=False)
        self.register_buffer("start", torch.tensor(config.starts[:-1]), persistent=False)
        self.rows = make_rows(sum(self._sizes), dim, init_std)
        self.register_parameter("codewords", None)
        self._apart: Tensor | None = None
        self._epochs = 1.0

    def use_counts(self, counts: Tensor) -> None:
        """Take the counts that tell how often an id's row is touched."""
        self.counts = counts.float()

    def end_stage(self, clock: Clock) -> None:
        """Remember how many passes the first stage has made."""
        self._epochs = clock.step / clock.steps_per_epoch

    def learning_rates(self) -> tuple[float, float]:
        """Go on carefully once coded: the full table was at its best already."""
        return (1.0, 1.0) if self.stage == "train" else (0.1, 0.1)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]: rows in the first stage, their codes in the second."""
        rows: Tensor = self.rows(ids + self.offset[slot])
        if self.stage == "train":
            return rows
        assert self.codewords is not None
        codewords = as_served(self.codewords)
        if self.config.own_bits:
            coded = sum_own_codes(self.config.shapes, rows, slot, codewords)
        else:
            codes = encode(rows.detach(), codewords.detach(), self.config.levels)
            coded = F.embedding_bag(codes + self.start, codewords, mode="sum")
        if torch.is_grad_enabled():
            self._apart = F.mse_loss(coded.detach(), rows) + F.mse_loss(coded, rows.detach())
            coded = coded + (rows - rows.detach())  # straight through
        return coded

    def penalty(self) -> Tensor | None:
        """Return the mean squared distance between the last rows looked up and their codes, weighted."""
        apart, self._apart = self._apart, None
        return None if apart is None else self.config.pull * apart

    @torch.no_grad()
    def choose(self, stage: str) -> None:
        """Decide who shares codewords, where that is not said. Entered without this, all features do."""
        if self.config.own and not self.config.own_bits:
            self.settle(self.try_shapes())

    @torch.no_grad()
    def settle(self, losses: Losses) -> None:
        """Decide it by what :meth:`try_shapes` returned."""
        found = choose_shapes(losses.own, self._sizes, self.dim, self._room())
        if found is not None and found[1] < losses.common:
            self.config = self.config.with_shapes(found[0])

    @torch.no_grad()
    def try_shapes(self) -> Losses:
        """Return what rows lose in each shape that fits, and with common codewords."""
        samples = [sample(rows, felt, _TRIED) for rows, felt in zip(*self.trained(), strict=True)]
        room = self._room()
        own = [shape_losses(ids, room, *part) for ids, part in zip(self._sizes, samples, strict=True)]
        vectors, felt = (torch.cat(parts) for parts in zip(*samples, strict=True))
        words = fit_levels(vectors, felt, self.config.levels)
        codes = encode(vectors, words, self.config.levels) + self.start
        common = felt @ (vectors - F.embedding_bag(codes, words, mode="sum")).square().sum(dim=1)
        return Losses(own, float(common))

    def _room(self) -> int:
        return self.config.serve_bytes(sum(self._sizes), self.dim)

    def set_stage(self, stage: str) -> None:
        """Fit the codebooks to the trained rows."""
        super().set_stage(stage)
        count = sum(shape.codewords for shape in self.config.shapes) or self.config.starts[-1]
        self.codewords = nn.Parameter(torch.zeros((count, self.dim), device=self.offset.device))
        if not self.offset.is_meta:
            with torch.no_grad():
                self.codewords.copy_(self._fitted())

    def _fitted(self) -> Tensor:
        """Return codewords for the rows as they are."""
        values, weights = self.trained()
        if self.config.own_bits:
            parts = zip(values, weights, self.config.shapes, strict=True)
            return torch.cat([fit_own(rows, felt, shape) for rows, felt, shape in parts])
        return fit_levels(*sample(torch.cat(values), torch.cat(weights), _SAMPLE), self.config.levels)

    def trained(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the rows of each feature [num_ids, dim], and what an error in each weighs [num_ids]."""
        weights = self.rows.squared_gradients(self.counts * self._epochs) ** _POWER
        return torch.split(self.rows.values(), self._sizes), torch.split(weights, self._sizes)

    @torch.no_grad()
    def freeze(self) -> FrozenTable:
        """Code every row."""
        if self.codewords is None:
            raise SlimtabError(
                "rq has no codes to freeze before its stage 'code'; call set_stage('code') first"
            )
        values, codewords = self.rows.values(), as_served(self.codewords)
        if self.config.own_bits:
            return freeze_own_codes(self.config.shapes, torch.split(values, self._sizes), codewords)
        codes = encode_all(values, codewords, self.config.levels)
        return FrozenCommonCodes(codes, codewords, self.config.levels, self.offset)

    def bytes_by_feature(self) -> list[int]:
        """Count codes and codewords where each feature has its own."""
        if not self.config.own_bits:
            return super().bytes_by_feature()
        return bytes_by_feature(self.config.shapes, self._sizes, self.dim)

    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return the bits of an id's code where features differ."""
        if not self.config.own_bits:
            return {}
        return {"code_bits": self.named(shape.bits * shape.levels for shape in self.config.shapes)}


def fit_own(rows: Tensor, felt: Tensor, shape: Shape) -> Tensor:
    """Return codewords of a feature's own, for its ``rows`` [num_ids, dim] of weights ``felt`` [num_ids].

    Those of fewer levels are the first of them.
    """
    return fit_levels(*sample(rows, felt, _SAMPLE), shape.bits_of_levels)
