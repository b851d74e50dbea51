"""Ways to code a feature: codewords that features share, codewords of its own, steps by row, or none.

A way says what a feature takes on it, what becomes of its vectors, and how features on it are served.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.shrinking.made import Made
from slimtab.shrinking.residual import fit_codes, fit_residual
from slimtab.shrinking.row_steps import fit_row_steps
from slimtab.shrinking.vectors import Vectors
from slimtab.tables.fitted.base import empty_table
from slimtab.tables.fitted.own_codes import OwnCodes
from slimtab.tables.fitted.row_steps import RowSteps
from slimtab.tables.parts.own_codes import Shape, pack_own_codes
from slimtab.tables.rq import RQConfig

_COMMON = tuple(RQConfig((8,) * levels) for levels in range(1, 7))
_OWN_BITS = (4, 6, 8)  # of a level of codewords of one's own
_MOST_OWN = 48  # bits of an id
_STEP_BITS = (2, 4, 8)  # of a coordinate


class Fits:
    """Codewords for a group's vectors and for each feature's alone; each is fitted once.

    Args:
        vectors: of all features.
        seed: of samples and starts.
    """

    def __init__(self, vectors: Vectors, seed: int) -> None:
        self.vectors, self.seed = vectors, seed
        self._own: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @cached_property
    def common(self) -> tuple[Tensor, Tensor]:
        """Codes and codewords of all features together, of the most levels."""
        return fit_codes(self.vectors, _COMMON[-1], self.seed, lambda rows: None)

    def own(self, slot: int, shape: Shape) -> tuple[Tensor, Tensor]:
        """Return codes and codewords of a feature: the first levels of one fit of many."""
        bits = shape.bits
        if (slot, bits) not in self._own:
            ids, dim = len(self.vectors.tables[slot]), self.vectors.dim
            shapes = (Shape(bits, levels) for levels in range(1, _MOST_OWN // bits + 1))
            most = max(worth.levels for worth in shapes if worth.nbytes(ids, dim) <= 4 * ids * dim)
            one = self.vectors.select([slot])
            self._own[slot, bits] = fit_codes(one, RQConfig((bits,) * most), self.seed, lambda rows: None)
        codes, codewords = self._own[slot, bits]
        return codes[:, : shape.levels], codewords[: shape.codewords]


class Way(abc.ABC):
    """A way to code a feature.

    Attributes:
        name: for people.
        family: alike for ways whose features one table serves.
        shared: bytes that all features on it serve together.
    """

    name: str
    family: Hashable
    shared: int = 0

    @abc.abstractmethod
    def nbytes(self, ids: int, dim: int) -> int:
        """Return what a feature takes for itself."""

    @abc.abstractmethod
    def vectors(self, fits: Fits, slot: int) -> Tensor:
        """Return what becomes of a feature's vectors [ids, dim]."""

    @abc.abstractmethod
    def served(self, fits: Fits, slots: Sequence[int], ways: Sequence[Way]) -> Made:
        """Return what serves ``slots``, whose ``ways`` are of this family, with shares in bytes."""


class Common(Way):
    """Residual codes with codewords for all features on it, fitted again to those that end there."""

    def __init__(self, config: RQConfig, dim: int) -> None:
        self.config = self.family = config
        self.name = f"rq, {sum(config.levels)} bits"
        self.shared = 2 * dim * config.starts[-1]

    def nbytes(self, ids: int, dim: int) -> int:
        """See :class:`Way`."""
        return -(-ids * sum(self.config.levels) // 8)

    def vectors(self, fits: Fits, slot: int) -> Tensor:
        """See :class:`Way`."""
        codes, codewords = fits.common
        start = int(fits.vectors.offset[slot])
        mine = codes[start : start + len(fits.vectors.tables[slot]), : len(self.config.levels)]
        return _sums(mine, codewords[: self.config.starts[-1]], self.config.levels[0])

    def served(self, fits: Fits, slots: Sequence[int], ways: Sequence[Way]) -> Made:
        """See :class:`Way`."""
        table = fit_residual(fits.vectors.select(slots), self.config, fits.seed, lambda rows: None)
        return Made("rq", asdict(self.config), table, _shares(fits, slots, ways))


class Own(Way):
    """Residual codes with codewords of the feature's own; features of all shapes stand in one table."""

    family = "own"

    def __init__(self, shape: Shape) -> None:
        self.shape, self.name = shape, f"own rq, {shape.levels} times {shape.bits} bits"

    def nbytes(self, ids: int, dim: int) -> int:
        """See :class:`Way`."""
        return self.shape.nbytes(ids, dim)

    def vectors(self, fits: Fits, slot: int) -> Tensor:
        """See :class:`Way`."""
        return _sums(*fits.own(slot, self.shape), self.shape.bits)

    def served(self, fits: Fits, slots: Sequence[int], ways: Sequence[Way]) -> Made:
        """See :class:`Way`."""
        shapes = [way.shape for way in ways if isinstance(way, Own)]
        codes, codewords = zip(*map(fits.own, slots, shapes), strict=True)
        config = OwnCodes([shape.bits for shape in shapes], [shape.levels for shape in shapes])
        table = pack_own_codes(shapes, codes, torch.cat(codewords))
        return Made(config.method, asdict(config), table, _shares(fits, slots, ways))


class Steps(Way):
    """A least value and a step for each row."""

    def __init__(self, bits: int) -> None:
        self.config = self.family = RowSteps(bits)
        self.name = f"int{bits}"

    def nbytes(self, ids: int, dim: int) -> int:
        """See :class:`Way`."""
        return self.config.nbytes(ids, dim)

    def vectors(self, fits: Fits, slot: int) -> Tensor:
        """See :class:`Way`."""
        table = self.served(fits, [slot], [self]).table
        ids = torch.arange(len(fits.vectors.tables[slot]))
        rows: Tensor = table(ids, torch.zeros_like(ids))
        return rows

    def served(self, fits: Fits, slots: Sequence[int], ways: Sequence[Way]) -> Made:
        """See :class:`Way`."""
        table = fit_row_steps(fits.vectors.select(slots), self.config, lambda rows: None)
        return Made(self.config.method, asdict(self.config), table, _shares(fits, slots, ways))


class Full(Way):
    """Floats, as they are."""

    name = family = "full"

    def nbytes(self, ids: int, dim: int) -> int:
        """See :class:`Way`."""
        return 4 * ids * dim

    def vectors(self, fits: Fits, slot: int) -> Tensor:
        """See :class:`Way`."""
        return fits.vectors.select([slot]).all()

    def served(self, fits: Fits, slots: Sequence[int], ways: Sequence[Way]) -> Made:
        """See :class:`Way`."""
        some = fits.vectors.select(slots)
        table = empty_table("full", {}, some.features, some.dim)
        table.load_state_dict({"weight": some.all()})
        return Made("full", {}, table, _shares(fits, slots, ways))


def all_ways(dim: int) -> list[Way]:
    """Return the ladder for vectors of width ``dim``."""
    own = [Shape(bits, levels) for bits in _OWN_BITS for levels in range(1, _MOST_OWN // bits + 1)]
    return [*(Common(c, dim) for c in _COMMON), *map(Own, own), *map(Steps, _STEP_BITS), Full()]


def _shares(fits: Fits, slots: Sequence[int], ways: Sequence[Way]) -> list[float]:
    """Return each feature's bytes: its own, and of what its family shares a part by its ids."""
    rows = [len(fits.vectors.tables[slot]) for slot in slots]
    dim, total = fits.vectors.dim, sum(rows)
    return [way.nbytes(ids, dim) + way.shared * ids / total for way, ids in zip(ways, rows, strict=True)]


def _sums(codes: Tensor, codewords: Tensor, bits: int) -> Tensor:
    """Return the sums of codewords [ids, dim] that codes [ids, levels] of ``bits`` bits each stand for."""
    start = torch.arange(codes.shape[1]) << bits
    sums: Tensor = F.embedding_bag(codes + start, codewords, mode="sum")
    return sums
