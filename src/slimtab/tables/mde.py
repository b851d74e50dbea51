"""Mixed dimensions: features with many ids get narrow rows, and a projection back to the full width.

Ginart, Naumov, Mudigere, Yang & Zou, "Mixed dimension embeddings with application to memory-efficient
recommendation systems", ISIT 2021. Widths follow a power law in the number of ids; its exponent is what
the budget chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.addressed import project_features
from slimtab.tables.parts.narrow import NarrowRows, by_width, read_narrow
from slimtab.tables.rows.base import RowsFactory

_STEPS = 1024  # of the exponent between 0 and 1
_UNUSED = 0.05  # share of a budget that may be left over before single features are widened


@dataclass(frozen=True)
class MdeConfig(TableConfig):
    """Settings of :class:`Mde`.

    Attributes:
        widths: width of each feature's rows; one as wide as the output has no projection.
        alpha: exponent of the power law; 0 makes all features alike. Where its steps are too coarse for the
            budget, ``widths`` are larger than it says.
        power_of_two: round widths to powers of two.
    """

    by_budget = ("widths", "alpha")

    widths: tuple[int, ...] = ()
    alpha: float = 0.0
    power_of_two: bool = True

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one float per id and a projection per feature, or full rows where those are smaller."""
        sizes = _sizes(features)
        return _bytes(sizes, _smaller(sizes, np.ones_like(sizes), dim), dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> MdeConfig:
        sizes, config = _sizes(features), cls(**options)
        alphas = np.arange(_STEPS + 1) / _STEPS
        ideal = power_law(sizes, dim, alphas)
        widths = _smaller(sizes, rounded(ideal, dim, config.power_of_two), dim)
        counted = all_bytes(sizes, widths, dim)
        best = int(np.where(counted <= nbytes, counted, -1).argmax())
        if counted[best] > nbytes:  # no exponent is steep enough for features of nearly equal size
            best, chosen = _STEPS, _smaller(sizes, np.ones_like(sizes), dim)
        else:
            chosen = widths[best]
        chosen = _widened(sizes, chosen, ideal[best], dim, nbytes, config.power_of_two)
        return cls(**{**options, "widths": tuple(map(int, chosen)), "alpha": float(alphas[best])})


Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def _sizes(features: Sequence[Feature]) -> Ints:
    return np.array([feature.num_ids for feature in features])


def power_law(sizes: Ints, dim: int, alphas: Floats) -> Floats:
    """Return widths [A, F] before rounding: dim · (min n / n_f)^α for ``sizes`` [F] and ``alphas`` [A]."""
    widths: Floats = dim * (sizes.min() / sizes) ** alphas[:, None]
    return widths


def rounded(ideal: Floats, dim: int, power_of_two: bool) -> Ints:
    """Round widths to whole numbers in ``1 … dim``, and those to powers of two (the width itself allowed).

    In two steps, as the public code does: 2.7 becomes 3, and 3 becomes 4.
    """
    whole = np.clip(np.round(ideal), 1, dim)
    if power_of_two:
        whole = np.minimum(2 ** np.round(np.log2(whole)), dim)
    return whole.astype(np.int64)


def stored_floats(sizes: Ints, widths: Ints, dim: int) -> Ints:
    """Return floats [..., F] of the rows and the projection of each feature."""
    return sizes * widths + np.where(widths < dim, widths * dim, 0)


def all_bytes(sizes: Ints, widths: Ints, dim: int) -> Ints:
    """Return serving bytes [...] of ``widths`` [..., F]: rows, projections, and the widths themselves."""
    counted: Ints = 4 * stored_floats(sizes, widths, dim).sum(axis=-1) + 8 * len(sizes)
    return counted


def _bytes(sizes: Ints, widths: Ints, dim: int) -> int:
    return int(all_bytes(sizes, widths, dim))


def _smaller(sizes: Ints, widths: Ints, dim: int) -> Ints:
    """Return ``widths`` with those features full that would not get smaller by their projection."""
    return np.where((sizes + dim) * widths < sizes * dim, widths, dim)


def _widened(sizes: Ints, widths: Ints, ideal: Floats, dim: int, nbytes: int, power_of_two: bool) -> Ints:
    """Spend what the power law leaves over: widen those features first that rounding cut most.

    First by doubling, while powers of two are asked for; then, if still too much is left, by as many floats
    as fit, however odd the width.
    """
    widths = widths.copy()
    for doubling in (True, False) if power_of_two else (False,):
        while (left := nbytes - _bytes(sizes, widths, dim)) > _UNUSED * nbytes:
            by = widths if doubling else left // (4 * (sizes + dim))
            wider = _smaller(sizes, np.minimum(widths + by, dim), dim)
            # Full rows need no projection, so they may fit where a narrower one does not.
            full = 4 * (sizes * dim - stored_floats(sizes, widths, dim)) <= left
            wider = wider if doubling else np.where(full, dim, wider)
            added = 4 * (stored_floats(sizes, wider, dim) - stored_floats(sizes, widths, dim))
            able = np.flatnonzero((wider > widths) & (added <= left))
            if not len(able):
                break
            slot = able[np.argmin((widths / ideal)[able])]
            widths[slot] = wider[slot]
    return widths


class _Projections(nn.Module):
    """Finds each narrow feature's projection among rows that hold only those there are."""

    first: Tensor
    widths: Tensor
    index: Tensor
    narrow: Tensor

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        narrow = [slot for slot, width in enumerate(widths) if width < dim]
        self.rows, self.all_narrow = sum(widths[slot] for slot in narrow), len(narrow) == len(widths)
        # Behind the rows stands a row of zeros, for what pads narrow features.
        index, position = torch.full((len(narrow), max(widths)), self.rows), 0
        first = [-1] * len(widths)
        for place, slot in enumerate(narrow):
            index[place, : widths[slot]] = torch.arange(position, position + widths[slot])
            first[slot] = position
            position += widths[slot]
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.register_buffer("widths", torch.tensor(widths), persistent=False)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("narrow", torch.tensor(narrow, dtype=torch.int64), persistent=False)

    def forward(self, pooled: Tensor, rows: Tensor) -> Tensor:
        """Map ``pooled`` [B, F, W] to [B, F, dim] by ``rows`` [Σ width of projected features, dim]."""
        if kernels.ready(pooled, rows):
            from slimtab.kernels.projecting import project

            return project(pooled, self.first, self.widths, rows)
        padded = F.embedding(self.index, torch.cat([rows, torch.zeros_like(rows[:1])]))
        if self.all_narrow:
            return project_features(pooled, padded)
        # Most features are full as a rule, and copied in less time than multiplied by an identity.
        projected = project_features(pooled.index_select(1, self.narrow), padded)
        return pooled.index_copy(1, self.narrow, projected)


class _FrozenMde(FrozenTable):
    """Rows of all widths in one array, and projections."""

    values: Tensor
    widths: Tensor
    starts: Tensor
    projection: Tensor | None

    def __init__(
        self,
        values: Tensor,
        widths: Tensor,
        starts: Tensor,
        width: int,
        projections: _Projections,
        projection: Tensor | None,
    ) -> None:
        super().__init__()
        self.width, self.projections = width, projections
        self.register_buffer("values", values)
        self.register_buffer("widths", widths)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("projection", projection)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width of the widest feature], padded with zeros."""
        return read_narrow(self.values, self.starts, self.widths, ids, slot, self.width)

    def project(self, pooled: Tensor) -> Tensor:
        """Apply each feature's projection; full features keep what they are."""
        return pooled if self.projection is None else self.projections(pooled, self.projection)


class Mde(EmbeddingTable, method="mde"):
    """Rows of a width per feature, and a projection per feature that is narrower than the output."""

    kind = "width"
    paper = "Ginart et al., ISIT 2021"
    Config = MdeConfig

    widths: Tensor
    projection: nn.Parameter | None

    def __init__(
        self,
        config: MdeConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.width = max(config.widths)
        sizes = [feature.num_ids for feature in features]
        self.rows = NarrowRows(sizes, config.widths, make_rows, init_std)
        self.projections = _Projections(config.widths, dim)
        self.register_buffer("widths", torch.tensor(config.widths))
        self.register_parameter("projection", None)
        if self.projections.rows:
            # Columns of length 1: what comes out has the variance of the rows that go in, at every width.
            starts = [F.normalize(torch.randn(width, dim), dim=0) for width in config.widths if width < dim]
            self.projection = nn.Parameter(torch.cat(starts))

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width of the widest feature], padded with zeros."""
        rows: Tensor = self.rows(ids, slot)
        return rows

    def project(self, pooled: Tensor) -> Tensor:
        """Apply each feature's projection; full features keep what they are."""
        return pooled if self.projection is None else self.projections(pooled, self.projection)

    def freeze(self) -> FrozenTable:
        """Return rows and projections as buffers, neither padded."""
        assert isinstance(self.config, MdeConfig)
        starts = torch.tensor(by_width([f.num_ids for f in self.features], self.config.widths))
        projection = None if self.projection is None else self.projection.detach().clone()
        return _FrozenMde(
            self.rows.packed(), self.widths.clone(), starts, self.width, self.projections, projection
        )

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of each feature's rows and projection."""
        return [
            _bytes(_sizes([feature]), np.array([width]), self.dim)
            for feature, width in zip(self.features, self.config.widths, strict=True)  # type: ignore[attr-defined]
        ]

    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return the width of each feature's rows."""
        return {"width": self.named(self.widths.tolist())}

    def stats(self) -> dict[str, float]:
        """Return the mean width over features and over ids."""
        ids = torch.tensor([feature.num_ids for feature in self.features], dtype=torch.float64)
        widths = self.widths.double().cpu()
        return {
            "mean_width": float(widths.mean()),
            "mean_width_by_id": float((widths * ids).sum() / ids.sum()),
        }
