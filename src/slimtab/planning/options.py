"""What a feature may become: a full table, or residual codes of so many bits.

Codes are the ladder because they are fitted to trained vectors: what they cost can be measured in one trained
model, feature by feature, and training through them only makes it less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.sizes import format_bytes
from slimtab.tables.parts.own_codes import Shape
from slimtab.tables.parts.packing import MAX_BITS
from slimtab.tables.rq import RQ, RQConfig

_APART = 1.3  # bytes of a step over those of the step below, where codewords are a feature's own

# A level of eight bits says more than two of four, so common levels are filled one after another.
_COMMON = ((2,), (4,), *((8,) * levels for levels in range(1, 1 + MAX_BITS // 8)))


@dataclass(frozen=True)
class Option:
    """A step of the ladder.

    Attributes:
        codes: what features are on it: with common codewords all the same, with codewords of their own each
            what stands at its place. None for full tables.
    """

    codes: RQConfig | None = None

    @property
    def own(self) -> bool:
        """Whether codewords are the feature's own."""
        return self.codes is not None and bool(self.codes.own_bits)

    def name(self, slot: int) -> str:
        """How people call what a feature is here: ``full``, ``3 × 8 bits``, ``24 bits, shared``."""
        if self.codes is None:
            return "full"
        if self.own:
            return "{1} × {0} bits".format(*self.codes.shapes[slot])
        return f"{sum(self.codes.levels)} bits, shared"

    def nbytes(self, features: Sequence[Feature], dim: int) -> list[int]:
        """Return what each feature serves, without :meth:`shared`."""
        sizes = [feature.num_ids for feature in features]
        if self.codes is None:
            return [4 * dim * ids for ids in sizes]
        if self.own:
            return [shape.nbytes(ids, dim) for shape, ids in zip(self.codes.shapes, sizes, strict=True)]
        return [self.codes.serve_bytes(ids, dim) - self.shared(dim) for ids in sizes]

    def shared(self, dim: int) -> int:
        """Return what all features of this step serve together: common codewords."""
        return 2 * dim * self.codes.starts[-1] if self.codes is not None and not self.own else 0


FULL = Option()


@dataclass(frozen=True)
class Ladder:
    """Steps, and where features begin.

    Attributes:
        options: from small to large; the last one is full.
        start: the step of each feature that `rq` would choose by itself.
    """

    options: tuple[Option, ...]
    start: tuple[int, ...]

    def nbytes(self, features: Sequence[Feature], dim: int) -> NDArray[np.int64]:
        """Return what each feature serves on each step [F, S], without what it shares."""
        return np.array([option.nbytes(features, dim) for option in self.options]).T


def codes_for(features: Sequence[Feature], dim: int, budget: int) -> RQConfig:
    """Return the codes that use up ``budget`` bytes when all features are coded alike.

    Raises:
        SlimtabError: when even codes of one bit are larger.
    """
    least = RQConfig.smallest_bytes(features, dim)
    if least > budget:
        raise SlimtabError(
            f"auto cannot plan for {format_bytes(budget)}: one bit for each id takes {format_bytes(least)}; "
            "raise the budget, or choose unified or robe, whose ids share"
        )
    config = RQConfig.for_budget(features, dim, budget)
    assert isinstance(config, RQConfig)
    return config


def ladder_for(codes: RQ) -> Ladder:
    """Let ``codes``, which hold trained rows, choose what they would be, and return the ladder around that.

    Features stay with codewords of the kind that is chosen, common ones or their own.
    """
    losses = codes.try_shapes()
    codes.settle(losses)
    if not codes.config.own_bits:
        every = {sum(levels): RQConfig(levels) for levels in (*_COMMON, codes.config.levels)}
        common = [every[bits] for bits in sorted(every)]
        return Ladder((*map(Option, common), FULL), (common.index(codes.config),) * len(codes.features))
    steps = _own_steps(codes, losses.own)
    start = [own.index(shape) for own, shape in zip(steps, codes.config.shapes, strict=True)]
    own = [codes.config.with_shapes(shapes) for shapes in zip(*steps, strict=True)]
    return Ladder((*map(Option, own), FULL), tuple(start))


def _own_steps(codes: RQ, losses: Sequence[dict[Shape, float]]) -> list[list[Shape]]:
    """Return as many shapes for each feature, smallest first: some worth their bytes, and the chosen."""
    steps = []
    for feature, lost, chosen in zip(codes.features, losses, codes.config.shapes, strict=True):
        ids, full = feature.num_ids, 4 * codes.dim * feature.num_ids
        sizes = {s: size for s in lost if (size := s.nbytes(ids, codes.dim)) < full or s == chosen}
        kept = {chosen, *_thinned(_hull(lost, sizes), sizes)}
        steps.append(sorted(kept, key=lambda shape: sizes[shape]))
    longest = max(map(len, steps))
    # A feature of few shapes stands on its largest for the rest.
    return [own + own[-1:] * (longest - len(own)) for own in steps]


def _hull(losses: dict[Shape, float], sizes: dict[Shape, int]) -> list[Shape]:
    """Return the corners of the least convex curve of losses over bytes, smallest first."""
    found: list[Shape] = []
    for shape in sorted(sizes, key=lambda shape: (sizes[shape], losses[shape])):
        if found and losses[shape] >= losses[found[-1]]:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1], losses, sizes) >= _slope(
            found[-1], shape, losses, sizes
        ):
            found.pop()
        found.append(shape)
    return found


def _slope(one: Shape, other: Shape, losses: dict[Shape, float], sizes: dict[Shape, int]) -> float:
    return (losses[other] - losses[one]) / (sizes[other] - sizes[one])


def _thinned(shapes: list[Shape], sizes: dict[Shape, int]) -> list[Shape]:
    """Return those of ``shapes`` whose bytes lie some way apart."""
    kept = shapes[:1]
    for _, shape in pairwise(shapes):
        if sizes[shape] >= _APART * sizes[kept[-1]]:
            kept.append(shape)
    return kept
