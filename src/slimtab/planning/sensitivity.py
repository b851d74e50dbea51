"""What each step of the ladder costs each feature: measured in a trained model with full tables.

The rows of all features are coded once for each step, and the validation rows look their vectors up once for
each. Any mixture of steps then costs the dense network alone.

Features stand in for each other: where one alone is coded coarsely, the others make up for it, and where all
are, nothing does. So a feature's losses are measured in company, from a mixture in which all others are as
coarse as they will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.models.base import CTRModel
from slimtab.planning.options import Ladder
from slimtab.tables.base import EmbeddingTable, FrozenTable
from slimtab.tables.full import Full
from slimtab.tables.parts.own_codes import Shape, freeze_own_codes
from slimtab.tables.rows.base import Rows
from slimtab.tables.rq import RQ, RQConfig, fit_own

_ROWS = 4096  # that go through the network at a time


class Mixtures:
    """A trained model whose features each stand on a step of the ladder of their own.

    Args:
        model: trained, with full tables.
        batches: validation rows.
        counts: how often the training rows hold each id [Σ num_ids], feature after feature.
        ladder: the steps.
    """

    @torch.no_grad()
    def __init__(self, model: CTRModel, batches: Sequence[Batch], counts: Tensor, ladder: Ladder) -> None:
        tables = model.eval().tables
        table = tables.table
        assert isinstance(table, Full)
        self.features, self.dim, self.ladder = tables.features, tables.dim, ladder
        label = torch.cat([batch.label for batch in batches]).double()
        dense = torch.cat([batch.dense for batch in batches])
        vectors = []  # of each step, [R, F, dim]
        for coded in _steps(table, counts, ladder):
            read = TableCollection(coded, tables.features, tables.dim, tables.check_ids)
            vectors.append(torch.cat([read.embed(batch) for batch in batches]))
        # What is chosen among many by some rows looks better on them than it is: others tell.
        self._measured, self._proof = (
            _Rows(model, label[half::2], dense[half::2], [step[half::2] for step in vectors])
            for half in (0, 1)
        )

    @torch.no_grad()
    def losses(self, steps: Sequence[int]) -> NDArray[np.float64]:
        """Return the loss of each row in nats, where each feature stands on its step.

        The rows are those that :meth:`sensitivity` leaves out, every second one.
        """
        return self._proof.losses(self._proof.mixed(steps)).numpy()

    @torch.no_grad()
    def sensitivity(
        self, steps: Sequence[int], told: Callable[[], object] = lambda: None
    ) -> NDArray[np.float64]:
        """Return the nats by which the logloss rises when a feature moves from its step to another [F, S].

        Args:
            steps: of each feature.
            told: called after each feature.
        """
        rows = self._measured
        mixed = rows.mixed(steps)
        base = float(rows.losses(mixed).mean())
        loss = np.zeros((len(self.features), len(rows.vectors)))
        for slot in range(len(self.features)):
            for step, vectors in enumerate(rows.vectors):
                mixed[:, slot] = vectors[:, slot]
                loss[slot, step] = float(rows.losses(mixed).mean()) - base
            mixed[:, slot] = rows.vectors[steps[slot]][:, slot]
            told()
        # More bits never cost more: what says otherwise is noise; the nearest falling curve is without.
        loss = np.array([isotonic_regression(curve, increasing=False) for curve in loss], dtype=np.float64)
        return loss - np.take_along_axis(loss, np.array(steps)[:, None], axis=1)


@dataclass(frozen=True)
class _Rows:
    """Rows, and their vectors [R, F, dim] on each step."""

    model: CTRModel
    label: Tensor
    dense: Tensor
    vectors: list[Tensor]

    def mixed(self, steps: Sequence[int]) -> Tensor:
        return torch.stack([self.vectors[step][:, slot] for slot, step in enumerate(steps)], dim=1)

    def losses(self, vectors: Tensor) -> Tensor:
        parts = zip(torch.split(self.dense, _ROWS), torch.split(vectors, _ROWS), strict=True)
        logits = torch.cat([self.model.interact(*part) for part in parts])
        return binary_cross_entropy_with_logits(logits.double(), self.label, reduction="none")


def coding(table: Full, counts: Tensor, config: RQConfig) -> RQ:
    """Return residual codes over the rows of ``table``, before they are fitted.

    Args:
        table: trained.
        counts: how often the training rows hold each id [Σ num_ids], feature after feature.
        config: of the codes.
    """
    codes = RQ(config, table.features, table.dim, _These(table.rows), 0.0)
    codes.use_counts(counts)
    return codes


def _steps(table: Full, counts: Tensor, ladder: Ladder) -> Iterator[EmbeddingTable | FrozenTable]:
    """Yield what stands on each step: the codes of all rows, at last the table itself."""
    fits: dict[tuple[int, int], Tensor] = {}
    for option in ladder.options:
        if option.codes is None:
            yield table
            continue
        codes = coding(table, counts, option.codes)
        if option.own:
            yield _own_codes(codes, ladder, fits)
        else:
            codes.set_stage("code")
            yield codes.freeze()


def _own_codes(codes: RQ, ladder: Ladder, fits: dict[tuple[int, int], Tensor]) -> FrozenTable:
    """Return codes with codewords of each feature's own; one fit of so many bits serves all its steps."""
    values, weights = codes.trained()
    words = []
    for slot, shape in enumerate(codes.config.shapes):
        if (slot, shape.bits) not in fits:
            every = [option.codes.shapes[slot] for option in ladder.options if option.codes is not None]
            most = max(other.levels for other in every if other.bits == shape.bits)
            fits[slot, shape.bits] = fit_own(values[slot], weights[slot], Shape(shape.bits, most))
        words.append(fits[slot, shape.bits][: shape.codewords])
    return freeze_own_codes(codes.config.shapes, values, torch.cat(words))


class _These:
    """Gives out the rows there are."""

    optimizer = None

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, num_rows: int, width: int, init_std: float) -> Rows:
        return self.rows

    def together(self) -> _These:
        """Return itself: the rows stand in this process."""
        return self
