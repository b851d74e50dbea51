"""Trained tables of one width, one after another, read a chunk at a time: they may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.parts.starts import starts

# Of the counts: rows read often are trained well, k-means itself pulls codewords to where weight is dense,
# and the network has learned to do without rare ones. 0.5 and 0.75 do alike on sports, 0 and 1 worse.
_POWER = 0.5
_SURE_TURNS = 4  # until hardly a row more is drawn surely
_NEVER = 1e-3  # of the mean count, for rows that no training row holds


class Vectors:
    """The vectors of a group of features.

    Args:
        features: their names and numbers of ids, in slot order.
        tables: of each feature [num_ids, dim], any float dtype; they may be mapped from a file.
        counts: how often each row is read [Σ num_ids], in any unit; None where all rows matter alike.

    Attributes:
        rows: of all features.
        dim: width.
        offset: where each feature's rows begin [F] int64.
    """

    def __init__(
        self, features: Sequence[Feature], tables: Sequence[Tensor], counts: Tensor | None = None
    ) -> None:
        self.features, self.tables = tuple(features), tuple(tables)
        self.rows, self.dim = sum(map(len, tables)), tables[0].shape[1]
        self.offset = starts(map(len, tables))
        self._counts = counts

    @property
    def full_bytes(self) -> int:
        """Bytes of the tables in float32."""
        return 4 * self.rows * self.dim

    @property
    def counted(self) -> bool:
        """Whether it is known how often rows are read."""
        return self._counts is not None

    @cached_property
    def counts(self) -> Tensor:
        """How often each row is read [rows] float32, 1 on average."""
        if self._counts is None:
            return torch.ones(self.rows)
        counts = self._counts.float() / self._counts.float().mean().clamp(min=1e-30)
        return counts.clamp_(min=_NEVER)

    @cached_property
    def weights(self) -> Tensor:
        """How much an error in each row matters [rows] float32."""
        return self.counts**_POWER

    def chunks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield where each chunk begins, and its vectors [≤ size, dim] float32.

        Raises:
            SlimtabError: at the first vector that is not finite, naming its table and row.
        """
        start = 0
        for feature, table in zip(self.features, self.tables, strict=True):
            for first in range(0, len(table), size):
                chunk = table[first : first + size].float()
                if not bool(torch.isfinite(chunk.sum())):
                    self._check(feature, first, chunk)
                yield start + first, chunk
            start += len(table)

    def all(self) -> Tensor:
        """Return all vectors [rows, dim] float32: a copy."""
        return torch.cat([chunk.clone() for _, chunk in self.chunks(self.rows)])

    def sample(self, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return about ``size`` rows that stand for all, in order: vectors [M, dim] and weights [M].

        Rows are drawn by weight, those that weigh most surely, and weigh the more the less likely they were
        to be drawn: so sums over them are as over all rows (Horvitz & Thompson, JASA 1952).
        """
        if self.rows <= size:
            return self.all(), self.weights
        weights = self.weights
        sure = torch.zeros(self.rows, dtype=torch.bool)
        for _ in range(_SURE_TURNS):
            chance = weights * ((size - int(sure.sum())) / float(weights[~sure].sum()))
            sure |= chance >= 1
        chance[sure] = 1.0
        generator = torch.Generator().manual_seed(seed)
        drawn = (torch.rand(self.rows, generator=generator) < chance).nonzero().squeeze(1)
        parts = []
        for table, first in zip(self.tables, self.offset.tolist(), strict=True):
            inside = drawn[(drawn >= first) & (drawn < first + len(table))] - first
            parts.append(table[inside].float())
        sample = torch.cat(parts)
        if not bool(torch.isfinite(sample.sum())):
            for _ in self.chunks(size):  # names the row
                pass
        return sample, weights[drawn] / chance[drawn]

    def select(self, slots: Sequence[int]) -> Vectors:
        """Return those of some of the features."""
        sizes = [len(table) for table in self.tables]
        counts = torch.split(self.counts, sizes)
        return Vectors(
            [self.features[slot] for slot in slots],
            [self.tables[slot] for slot in slots],
            torch.cat([counts[slot] for slot in slots]) if self.counted else None,
        )

    def _check(self, feature: Feature, first: int, chunk: Tensor) -> None:
        wrong = (~torch.isfinite(chunk)).any(dim=1).nonzero().squeeze(1)
        if len(wrong):
            raise SlimtabError(
                f"table '{feature.name}', row {first + int(wrong[0])} holds NaN or infinity; "
                "repair the checkpoint, or leave the table out with --tables"
            )
