"""Nested dimensions: rows trained so that any prefix of them works, cut to a width per feature afterwards.

Kusupati et al., "Matryoshka representation learning", NeurIPS 2022; the widths drawn in training are the
nested dropout of Rippel, Gelbart & Adams, "Learning ordered representations with nested dropout", ICML 2014.
Which width a feature is cut to is a knapsack: what the loss would feel if a coordinate went (its squares,
each times the squared gradient; LeCun, Denker & Solla, "Optimal brain damage", NIPS 1989) against the
feature's number of ids. Squares alone say little: Adam and decay bring all coordinates to one size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.knapsack import choose_widths
from slimtab.tables.parts.narrow import read_narrow
from slimtab.tables.rows.base import RowsFactory


@dataclass(frozen=True)
class NestedConfig(TableConfig):
    """Settings of :class:`Nested`.

    Attributes:
        floats: of all rows together once they are cut, and of the padding that reads may run into.
    """

    by_budget = ("floats",)

    floats: int = 0

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one float per id, padding, and the widths."""
        return 4 * (sum(feature.num_ids for feature in features) + dim - 1) + 8 * len(features)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> NestedConfig:
        full = dim * sum(feature.num_ids for feature in features) + dim - 1
        return cls(**{**options, "floats": min((nbytes - 8 * len(features)) // 4, full)})


class _FrozenNested(FrozenTable):
    """Rows cut to their widths, in one array."""

    values: Tensor
    widths: Tensor
    sizes: Tensor

    def __init__(self, values: Tensor, widths: Tensor, sizes: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("values", values)
        self.register_buffer("widths", widths)
        self.register_buffer("sizes", sizes, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        floats = self.sizes * self.widths
        starts = torch.cumsum(floats, 0) - floats
        return read_narrow(self.values, starts, self.widths, ids, slot, self.dim)


class Nested(EmbeddingTable, method="nested"):
    """A full table in its first stage, whose rows are then cut to a width per feature and trained on.

    Frozen in its first stage, it is cut without training on.
    """

    kind = "width"
    paper = "Kusupati et al., NeurIPS 2022"
    stages = ("train", "choose")
    Config = NestedConfig

    offset: Tensor
    sizes: Tensor
    cuts: Tensor
    widths: Tensor
    counts: Tensor | None

    def __init__(
        self,
        config: NestedConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self._floats = config.floats
        sizes = [feature.num_ids for feature in features]
        self._edges = [0, *accumulate(sizes)]
        self.rows = make_rows(sum(sizes), dim, init_std)
        self.register_buffer("offset", torch.tensor(self._edges[:-1]), persistent=False)
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("counts", None, persistent=False)
        self.register_buffer("widths", torch.full((len(sizes),), dim))
        drawn = torch.tensor([*(1 << bit for bit in range((dim - 1).bit_length())), dim])
        self.register_buffer("cuts", _kept(drawn, dim) * _scale(drawn, dim), persistent=False)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]; while the first stage trains, each cut to a width drawn for it."""
        rows: Tensor = self.rows(ids + self.offset.index_select(0, slot))
        if self.stage == "choose":
            return rows * F.embedding(slot, _kept(self.widths, self.dim))
        if not self.training:
            return rows
        return rows * F.embedding(torch.randint(len(self.cuts), ids.shape, device=ids.device), self.cuts)

    def use_counts(self, counts: Tensor) -> None:
        """Take how often ids are read, and so how much they matter; without, all count alike."""
        self.counts = counts.to(self.offset.device, torch.float32)

    @torch.no_grad()
    def set_stage(self, stage: str) -> None:
        """Enter ``choose``: fix the widths, and set the rows to what the network saw at these widths."""
        if stage == "choose" and self.stage == "train":
            values, self.widths = self._cut()
            self.rows.assign(values)
        super().set_stage(stage)

    @torch.no_grad()
    def freeze(self) -> FrozenTable:
        """Return the rows, without what was cut off, as one array."""
        values, widths = (self.rows.values(), self.widths.clone()) if self.stage == "choose" else self._cut()
        packed = values.new_zeros(self._floats)
        if not values.is_meta:  # where a feature begins depends on the widths, and so on data
            end = 0
            for (start, stop), width in zip(itertools.pairwise(self._edges), widths.tolist(), strict=True):
                begin, end = end, end + (stop - start) * width
                packed[begin:end] = values[start:stop, :width].flatten()
        return _FrozenNested(packed, widths, self.sizes.clone(), self.dim)

    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return the width of each feature's rows."""
        return {"width": self.named(self.widths.tolist())}

    def stats(self) -> dict[str, float]:
        """Return the mean width over features and over ids."""
        widths, sizes = self.widths.double(), self.sizes.double()
        return {
            "mean_width": float(widths.mean()),
            "mean_width_by_id": float((widths * sizes).sum() / sizes.sum()),
        }

    def _cut(self) -> tuple[Tensor, Tensor]:
        """Return all rows cut and rescaled [n, dim], and the widths [F] they are cut to."""
        values = self.rows.values()
        widths = torch.ones_like(self.widths)
        if not values.is_meta:
            room = self._floats - (self.dim - 1)  # a read of full width may run past the last row
            widths = widths.new_tensor(
                choose_widths(self.sizes.tolist(), self._energy(values).cpu().numpy(), room)
            )
        kept = _kept(widths, self.dim) * _scale(widths, self.dim)
        for slot, (start, stop) in enumerate(itertools.pairwise(self._edges)):
            values[start:stop] *= kept[slot]
        return values, widths

    def _energy(self, values: Tensor) -> Tensor:
        """Return what the loss would feel of each coordinate of each feature if it went [F, dim] float64.

        That is Σ squared gradient · value². A coordinate's share of its row's squared gradients is how often,
        and scaled by how much, it stood in the vectors drawn: 6.2 on average for the first of 16, 0.2 for the
        last 8. So gains diminish with width as they do in the network, which leans on what it always has.
        """
        touches = values.new_ones(len(values)) if self.counts is None else self.counts
        felt = self.rows.squared_gradients(touches)
        ranges = list(itertools.pairwise(self._edges))
        squares = torch.stack([felt[start:stop] @ values[start:stop].square() for start, stop in ranges])
        return (squares * self.cuts.square().mean(dim=0)).double()


def _kept(widths: Tensor, dim: int) -> Tensor:
    """Return [W, dim]: 1 for the coordinates below each of ``widths`` [W], 0 for the others."""
    return (torch.arange(dim, device=widths.device) < widths[:, None]).float()


def _scale(widths: Tensor, dim: int) -> Tensor:
    """Return [W, 1]: what gives a cut vector the length of a whole one, so that the network sees no cut."""
    return (dim / widths).sqrt()[:, None]
