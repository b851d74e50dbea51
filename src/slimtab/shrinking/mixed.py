"""--mixed: bits for each feature, spent where the model's answers feel them most.

Every feature alone is coded in every way of a ladder, and it is measured how far the model's answers move
(:mod:`slimtab.shrinking.answers`). Errors of different features add up there as variances do, so the sum over
features says what a mixture costs, and the budget is a knapsack (:mod:`slimtab.planning.allocate`).

Ways that share codewords over features come out of one fit of all; the features that end on one are fitted
again by themselves. What was measured on one half of the rows is put to the test on the other: there the
mixture must better the best uniform code of as many bytes by more than the noise, or that one is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.errors import SlimtabError
from slimtab.planning.allocate import allocate
from slimtab.planning.noise import paired_gain, surely_less
from slimtab.shrinking.answers import Answers
from slimtab.shrinking.methods import METHODS, Made
from slimtab.shrinking.residual import fit_codes, fit_residual
from slimtab.shrinking.row_steps import fit_row_steps
from slimtab.shrinking.vectors import Vectors
from slimtab.sizes import format_bytes
from slimtab.tables.base import FrozenTable
from slimtab.tables.fitted.base import empty_table
from slimtab.tables.fitted.own_codes import OwnCodes
from slimtab.tables.fitted.row_steps import RowSteps
from slimtab.tables.full import FullConfig
from slimtab.tables.grouped import group_tables
from slimtab.tables.parts.own_codes import Shape, pack_own_codes
from slimtab.tables.rq import RQConfig

_COMMON = tuple(RQConfig((8,) * levels) for levels in range(1, 7))
_OWN_BITS = (4, 6, 8)  # of a level of codewords of one's own
_MOST_OWN = 48  # bits of an id
_UNIFORM = ("int8", "int4", "int2", "rq", "pq", "binary")
_PADDING = 8  # bytes at the end of each group's codes

Told = Callable[[int], object]


@dataclass(frozen=True)
class Way:
    """A way to code a feature.

    Attributes:
        name: for people.
        config: of the frozen table.
        shared: bytes that all features on it serve together.
    """

    name: str
    config: Any
    shared: int = 0

    def nbytes(self, ids: int, dim: int) -> int:
        """Return what a feature takes."""
        if isinstance(self.config, RQConfig):
            return -(-ids * sum(self.config.levels) // 8)
        if isinstance(self.config, FullConfig):
            return 4 * ids * dim
        return self.config.nbytes(ids, dim)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Mixed:
    """What was chosen.

    Attributes:
        made: the coded group.
        ways: how each feature is coded, by name.
        gain: nats by which it moves the answers less than the best uniform code, and their standard error.
        uniform: that code's method, and whether it was taken.
        taken: whether the mixture was.
    """

    made: Made
    ways: dict[str, str]
    gain: tuple[float, float]
    uniform: str
    taken: bool


def mix(
    vectors: Vectors,
    weights: Mapping[str, Tensor],
    answers: Answers,
    proof: Answers,
    nbytes: int,
    seed: int,
    told: Told,
) -> Mixed:
    """Choose a way for each feature within ``nbytes``.

    Args:
        vectors: of all features.
        weights: by feature, inside the model that answers: vectors are written there and back.
        answers: on the rows that ways are chosen by.
        proof: on other rows, that decide whether the mixture is taken.
        nbytes: serving bytes.
        seed: of samples and starts.
        told: called after each feature with 1.

    Raises:
        SlimtabError: when even the smallest codes do not fit.
    """
    ways = _ways(vectors.dim)
    sizes = np.array([[way.nbytes(len(table), vectors.dim) for way in ways] for table in vectors.tables])
    coded = _Coded(vectors, ways, seed)
    loss = np.full(sizes.shape, np.inf)
    rows = np.array([[len(table)] for table in vectors.tables])
    worth = sizes <= np.minimum(nbytes, 4 * vectors.dim * rows)
    for slot, feature in enumerate(vectors.features):
        for number in range(len(ways)):
            if worth[slot, number]:
                loss[slot, number] = _measure(weights, {feature.name: coded(slot, number)}, vectors, answers)
        told(1)
    free = [number for number, way in enumerate(ways) if not way.shared]
    shared = np.array([way.shared for way in ways])
    chosen = allocate(loss, sizes, shared, nbytes - _PADDING * len(ways), free)
    if chosen is None:
        raise SlimtabError(f"no mixture of codes fits {format_bytes(nbytes)}; raise the budget")
    mixture = _join(vectors, ways, chosen, coded, seed)
    rivals = {name: METHODS[name] for name in _UNIFORM if METHODS[name].smallest(vectors) <= nbytes}
    tried = {name: method.fit(vectors, nbytes, seed, lambda rows: None) for name, method in rivals.items()}
    costs = {name: _rows(weights, made.table, vectors, answers, proof) for name, made in tried.items()}
    own = _rows(weights, mixture.table, vectors, answers, proof)
    names = {
        feature.name: ways[number].name for feature, number in zip(vectors.features, chosen, strict=True)
    }
    if not costs:
        return Mixed(mixture, names, (float("nan"), float("nan")), "", True)
    best = min(costs, key=lambda name: float(costs[name][0].mean()))
    ours, theirs = own[1].numpy(), costs[best][1].numpy()
    taken = surely_less(ours, theirs)
    return Mixed(mixture if taken else tried[best], names, paired_gain(ours, theirs), best, taken)


def _ways(dim: int) -> list[Way]:
    own = [Shape(bits, levels) for bits in _OWN_BITS for levels in range(1, _MOST_OWN // bits + 1)]
    return [
        *(Way(f"rq, {sum(c.levels)} bits", c, 2 * dim * c.starts[-1]) for c in _COMMON),
        *(Way(f"own rq, {c.levels} times {c.bits} bits", c) for c in own),
        *(Way(f"int{bits}", RowSteps(bits)) for bits in (2, 4, 8)),
        Way("full", FullConfig()),
    ]


class _Coded:
    """Decodes a feature in a way; every fit is made once."""

    def __init__(self, vectors: Vectors, ways: Sequence[Way], seed: int) -> None:
        self.vectors, self.ways, self.seed = vectors, ways, seed
        self._own: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, slot: int, number: int) -> Tensor:
        """Return vectors [ids, dim] of a feature."""
        config, one = self.ways[number].config, self.vectors.select([slot])
        ids = torch.arange(one.rows)
        if isinstance(config, FullConfig):
            return one.all()
        if isinstance(config, Shape):
            return _sums(*self.own(slot, config), config.bits)
        if isinstance(config, RowSteps):
            table = fit_row_steps(one, config, lambda rows: None)
            rows: Tensor = table(ids, torch.zeros_like(ids))
            return rows
        codes, codewords = self._shared
        start = int(self.vectors.offset[slot])
        mine = codes[start : start + one.rows, : len(config.levels)]
        return _sums(mine, codewords[: config.starts[-1]], config.levels[0])

    @cached_property
    def _shared(self) -> tuple[Tensor, Tensor]:
        """Codes and codewords of all features together."""
        return fit_codes(self.vectors, _COMMON[-1], self.seed, lambda rows: None)

    def own(self, slot: int, config: Shape) -> tuple[Tensor, Tensor]:
        """Return codes and codewords of a feature: the first levels of one fit of many."""
        if (slot, config.bits) not in self._own:
            ids, dim = len(self.vectors.tables[slot]), self.vectors.dim
            worth = [
                way.config.levels
                for way in self.ways
                if isinstance(way.config, Shape)
                and way.config.bits == config.bits
                and way.nbytes(ids, dim) <= 4 * ids * dim
            ]
            most = RQConfig((config.bits,) * max(worth))
            self._own[slot, config.bits] = fit_codes(
                self.vectors.select([slot]), most, self.seed, lambda rows: None
            )
        codes, codewords = self._own[slot, config.bits]
        return codes[:, : config.levels], codewords[: config.codewords]


def _sums(codes: Tensor, codewords: Tensor, bits: int) -> Tensor:
    """Return the sums of codewords [ids, dim] that codes [ids, levels] of ``bits`` bits each stand for."""
    start = torch.arange(codes.shape[1]) << bits
    sums: Tensor = torch.nn.functional.embedding_bag(codes + start, codewords, mode="sum")
    return sums


def _join(vectors: Vectors, ways: Sequence[Way], chosen: Sequence[int], coded: _Coded, seed: int) -> Made:
    """Make the frozen table of all features, those on one way together."""
    groups: list[dict[str, Any]] = []
    tables, shares = [], [0.0] * len(chosen)
    # Those with codewords of their own stand together, whatever their shapes.
    keys = [-1 if isinstance(ways[number].config, Shape) else number for number in chosen]
    for key in sorted(set(keys)):
        slots = [slot for slot, own in enumerate(keys) if own == key]
        config, some = ways[chosen[slots[0]]].config, vectors.select(slots)
        table: FrozenTable
        if isinstance(config, Shape):
            shapes = [ways[chosen[slot]].config for slot in slots]
            codes, codewords = zip(*map(coded.own, slots, shapes), strict=True)
            table = pack_own_codes(shapes, codes, torch.cat(codewords))
            config = OwnCodes([shape.bits for shape in shapes], [shape.levels for shape in shapes])
            method = config.method
        elif isinstance(config, RowSteps):
            method, table = config.method, fit_row_steps(some, config, lambda rows: None)
        elif isinstance(config, RQConfig):
            method, table = "rq", fit_residual(some, config, seed, lambda rows: None)
        else:
            method, table = "full", empty_table("full", {}, some.features, vectors.dim)
            table.load_state_dict({"weight": some.all()})
        groups.append({"slots": tuple(slots), "method": method, "config": dataclasses.asdict(config)})
        tables.append(table)
        for slot in slots:
            way = ways[chosen[slot]]
            shares[slot] = way.nbytes(len(vectors.tables[slot]), vectors.dim)
            shares[slot] += way.shared * len(vectors.tables[slot]) / some.rows
    whole = group_tables([group["slots"] for group in groups], tables, vectors.dim)
    return Made("grouped", {"groups": groups}, whole, shares)


@torch.no_grad()
def _measure(
    weights: Mapping[str, Tensor], values: Mapping[str, Tensor], vectors: Vectors, answers: Answers
) -> float:
    """Return the mean loss with other vectors for some of the features."""
    return float(_losses(weights, values, vectors, [answers])[0].mean())


@torch.no_grad()
def _rows(
    weights: Mapping[str, Tensor], table: FrozenTable, vectors: Vectors, *answers: Answers
) -> list[Tensor]:
    """Return losses by row with a frozen table for all features, for each set of rows."""
    values = {}
    for slot, feature in enumerate(vectors.features):
        ids = torch.arange(feature.num_ids)
        values[feature.name] = table(ids, torch.full_like(ids, slot))
    return _losses(weights, values, vectors, answers)


def _losses(
    weights: Mapping[str, Tensor], values: Mapping[str, Tensor], vectors: Vectors, answers: Sequence[Answers]
) -> list[Tensor]:
    kept = {name: weights[name].clone() for name in values}
    try:
        for name, value in values.items():
            weights[name].copy_(value)
        return [each.loss() for each in answers]
    finally:
        for name, value in kept.items():
            weights[name].copy_(value)
