"""What a feature may become: a full table, or residual codes of so many bits.

Codes are the ladder because they are fitted to trained vectors: what they cost can be measured in one trained
model, feature by feature, and training through them only makes it less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
        options: with common codewords, then with their own, each from small to large; at last full.
        start: the step of each feature that `rq` would choose by itself.
    """

    options: tuple[Option, ...]
    start: tuple[int, ...]

    @property
    def chains(self) -> list[list[int]]:
        """Steps of a kind from small to large, each with the full table at its end."""
        own = [option.own for option in self.options[:-1]]
        kinds = [[step for step, one in enumerate(own) if one == kind] for kind in (False, True)]
        return [[*kind, len(own)] for kind in kinds if kind]


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
    """Return the ladder around what ``codes``, which hold trained rows, have chosen to be."""
    alike = codes.config.levels
    every = {sum(levels): RQConfig(levels) for levels in (*_COMMON, alike)}
    common = [every[bits] for bits in sorted(every)]
    apart = _own_steps(codes)
    own = [
        RQConfig(alike, own_bits=tuple(s.bits for s in step), own_levels=tuple(s.levels for s in step))
        for step in zip(*apart, strict=True)
    ]
    if codes.config.own_bits:
        places = [steps.index(chosen) for steps, chosen in zip(apart, codes.config.shapes, strict=True)]
        start = [len(common) + place for place in places]
    else:
        start = [common.index(RQConfig(alike))] * len(codes.features)
    return Ladder((*map(Option, (*common, *own)), FULL), tuple(start))


def _own_steps(codes: RQ) -> list[list[Shape]]:
    """Return as many shapes for each feature, smallest first: some worth their bytes, and the chosen."""
    chosen: Sequence[Shape | None] = codes.config.shapes or [None] * len(codes.features)
    steps = []
    for feature, losses, own in zip(codes.features, codes.try_shapes(), chosen, strict=True):
        sizes = {shape: shape.nbytes(feature.num_ids, codes.dim) for shape in losses}
        kept = set(_thinned(list(_hull(losses, sizes)), sizes)) | ({own} if own else set())
        steps.append(sorted(kept, key=lambda shape: sizes[shape]))
    longest = max(map(len, steps))
    # A feature of few shapes stands on its largest for the rest.
    return [mine + mine[-1:] * (longest - len(mine)) for mine in steps] if all(steps) else []


def _hull(losses: dict[Shape, float], sizes: dict[Shape, int]) -> Iterator[Shape]:
    """Yield the corners of the least convex curve of losses over bytes, smallest first."""
    found: list[Shape] = []
    for shape in sorted(losses, key=lambda shape: (sizes[shape], losses[shape])):
        if found and losses[shape] >= losses[found[-1]]:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1], losses, sizes) >= _slope(
            found[-1], shape, losses, sizes
        ):
            found.pop()
        found.append(shape)
    yield from found


def _slope(one: Shape, other: Shape, losses: dict[Shape, float], sizes: dict[Shape, int]) -> float:
    return (losses[other] - losses[one]) / (sizes[other] - sizes[one])


def _thinned(shapes: list[Shape], sizes: dict[Shape, int]) -> list[Shape]:
    """Return those of ``shapes`` whose bytes lie some way apart."""
    kept = shapes[:1]
    for _, shape in pairwise(shapes):
        if sizes[shape] >= _APART * sizes[kept[-1]]:
            kept.append(shape)
    return kept
