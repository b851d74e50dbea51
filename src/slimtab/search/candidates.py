"""Candidates: shapes of a trained supernet, scored on validation rows without training anything.

A candidate is a width per feature and a level: which share of the rows that passed their thresholds stays,
those with the most energy first. The vectors that a level leaves are looked up once; a candidate then costs
the network alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import IntDistribution
from scipy.stats import rankdata
from torch import Tensor

from slimtab.batch import Batch
from slimtab.models.base import CTRModel
from slimtab.search.auc_error import auc_error
from slimtab.search.sampler import Genes
from slimtab.tables.optembed import OptEmbed
from slimtab.tables.parts.cut import cut_bytes
from slimtab.tables.parts.shape import Shape, shape_of

LEVEL = "rows"
_ROWS = 4096  # that go through the network at a time
_LEVELS = 13  # from all rows worth keeping to 1/64 of them, two to a halving


def split(batches: Sequence[Batch], rows: int | None = None) -> tuple[list[Batch], list[Batch]]:
    """Return every so manieth batch, for all candidates, and the others, for those that come through.

    Who is chosen among many by few rows is flattered by these rows, so others must judge. Where there are too
    few rows to be split, all are for both.

    Args:
        batches: validation rows.
        rows: that the sample has, about; None takes a sixth, 2048 at least.
    """
    held = sum(len(batch.label) for batch in batches)
    every = -(-held // (rows or max(2048, held // 6)))
    others = [batch for number, batch in enumerate(batches) if number % every]
    return list(batches[::every]), others or list(batches)


@dataclass(frozen=True)
class _Level:
    """The rows that a level leaves."""

    mask: Tensor  # [n] bool
    kept: tuple[int, ...]  # of each feature


class Candidates:
    """The candidates of a supernet.

    Args:
        model: with a table in its supernet stage, trained.
        batches: validation rows.
    """

    def __init__(self, model: CTRModel, batches: Iterable[Batch]) -> None:
        table = model.tables.table
        assert isinstance(table, OptEmbed)
        self.model, self.table = model.eval(), table
        self.energy = table.energy()
        rich = self.energy.sum(dim=1)
        self._order = torch.argsort(rich, descending=True, stable=True)
        self._worth = int((rich > 0).sum())
        self.names = [feature.name for feature in table.features]
        self._levels: dict[int, _Level] = {}
        self._score_on(batches)

    def on(self, batches: Iterable[Batch]) -> Candidates:
        """Return the same candidates, scored on other rows."""
        other = copy.copy(self)
        other._score_on(batches)
        return other

    def _score_on(self, batches: Iterable[Batch]) -> None:
        self.batches = list(batches)
        self.clicked = torch.cat([batch.label for batch in self.batches]).numpy() > 0
        self._dense = torch.split(torch.cat([batch.dense for batch in self.batches]), _ROWS)
        self._vectors: dict[int, tuple[Tensor, ...]] = {}

    def space(self) -> dict[str, IntDistribution]:
        """Return the genes: the level, then the widths in the order of the features."""
        config = self.table.config
        widths = (1, self.table.dim) if config.columns_are_cut else (self.table.dim, self.table.dim)
        return {
            LEVEL: IntDistribution(0, _LEVELS - 1 if config.rows_are_cut else 0),
            **{f"width_{name}": IntDistribution(*widths) for name in self.names},
        }

    def shape(self, genes: Genes) -> Shape:
        """Return what a candidate keeps."""
        level = self._level(genes[LEVEL])
        return Shape(level.kept, tuple(genes[f"width_{name}"] for name in self.names), level.mask)

    def rows(self, level: int) -> int:
        """Return how many rows a level leaves."""
        return sum(self._level(level).kept)

    def nbytes(self, shape: Shape) -> int:
        """Return what a shape serves."""
        return cut_bytes(self.table.sizes, shape.kept, shape.widths, self.table.dim)

    def richest(self, level: int, floats: int) -> Genes:
        """Return the candidate with the most energy that keeps a level's rows in ``floats``."""
        mask = self._level(level).mask
        shape, _ = shape_of(mask, self.energy, self.table.sizes, floats, self.table.config)
        return {LEVEL: level, **{f"width_{n}": w for n, w in zip(self.names, shape.widths, strict=True)}}

    def auc(self, genes: Genes) -> float:
        """Return the area under the ROC curve."""
        ranks = rankdata(self._scores(genes))
        clicks, rows = int(self.clicked.sum()), len(ranks)
        # Mann and Whitney's, which takes a tenth of the time that scikit-learn spends on checks.
        above = ranks[self.clicked].sum() - clicks * (clicks + 1) / 2
        return float(above / (clicks * (rows - clicks)))

    def errors(self, best: Genes, others: Iterable[Genes]) -> Iterator[float]:
        """Yield the standard errors of the differences between the AUC of one candidate and of others."""
        scores = self._scores(best)
        for genes in others:
            yield auc_error(scores, self._scores(genes), self.clicked)

    @torch.no_grad()
    def _scores(self, genes: Genes) -> NDArray[np.float32]:
        """Return the logits of all rows."""
        widths = torch.tensor([genes[f"width_{name}"] for name in self.names])
        columns = torch.arange(self.table.dim) < widths[:, None]
        parts = [
            self.model.interact(dense, vectors * columns)
            for dense, vectors in zip(self._dense, self._looked_up(genes[LEVEL]), strict=True)
        ]
        return torch.cat(parts).numpy()

    def _level(self, level: int) -> _Level:
        if level not in self._levels:
            mask = torch.ones(len(self._order), dtype=torch.bool)
            if self.table.config.rows_are_cut:
                mask[self._order[max(1, round(self._worth * 2 ** (-level / 2))) :]] = False
            kept = tuple(int(part.sum()) for part in torch.split(mask, self.table.sizes))
            self._levels[level] = _Level(mask, kept)
        return self._levels[level]

    @torch.no_grad()
    def _looked_up(self, level: int) -> tuple[Tensor, ...]:
        """Return vectors [rows, F, dim] of all batches with a level's rows alone."""
        if level not in self._vectors:
            self.table.mask = self._level(level).mask
            vectors = torch.cat([self.model.tables.embed(batch) for batch in self.batches])
            self._vectors[level] = torch.split(vectors, _ROWS)
            self.table.mask = None
        return self._vectors[level]
