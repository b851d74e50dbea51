"""--mixed: bits for each feature, spent where the model's answers feel them most.

Every feature alone is coded in every way of a ladder, and it is measured how far the model's answers move
(:mod:`slimtab.shrinking.answers`). Errors of different features add up there as variances do, so the sum over
features says what a mixture costs, and the budget is a knapsack (:mod:`slimtab.planning.allocate`).

Ways that share codewords over features come out of one fit of all; the features that end on one are fitted
again by themselves. What was measured on one half of the rows is put to the test on the other: there the
mixture must better the best uniform code of as many bytes by more than the noise, or that one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.errors import SlimtabError
from slimtab.planning.allocate import allocate
from slimtab.planning.noise import paired_gain, surely_less
from slimtab.shrinking.answers import Answers
from slimtab.shrinking.made import Made
from slimtab.shrinking.methods import METHODS
from slimtab.shrinking.vectors import Vectors
from slimtab.shrinking.ways import Fits, Way, all_ways
from slimtab.sizes import format_bytes
from slimtab.tables.base import FrozenTable
from slimtab.tables.grouped import group_tables

_UNIFORM = ("int8", "int4", "int2", "rq", "pq", "binary")
_PADDING = 8  # bytes at the end of each group's codes

Told = Callable[[int], object]


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


@torch.no_grad()
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
    fits, measured = Fits(vectors, seed), _Measured(weights, vectors)
    ways = _choose(fits, measured, answers, nbytes, told)
    mixture = _join(fits, ways)
    names = {feature.name: way.name for feature, way in zip(vectors.features, ways, strict=True)}
    rivals = {name: METHODS[name] for name in _UNIFORM if METHODS[name].smallest(vectors) <= nbytes}
    if not rivals:
        return Mixed(mixture, names, (float("nan"), float("nan")), "", True)
    tried = {name: method.fit(vectors, nbytes, seed, lambda rows: None) for name, method in rivals.items()}
    costs = {name: measured.table(made.table, answers, proof) for name, made in tried.items()}
    best = min(costs, key=lambda name: float(costs[name][0].mean()))
    ours, theirs = measured.table(mixture.table, proof)[0].numpy(), costs[best][1].numpy()
    taken = surely_less(ours, theirs)
    return Mixed(mixture if taken else tried[best], names, paired_gain(ours, theirs), best, taken)


def _choose(fits: Fits, measured: _Measured, answers: Answers, nbytes: int, told: Told) -> list[Way]:
    """Return the way of each feature that moves the answers least within ``nbytes``."""
    vectors, ways = fits.vectors, all_ways(fits.vectors.dim)
    sizes = np.array([[way.nbytes(len(table), vectors.dim) for way in ways] for table in vectors.tables])
    full = np.array([[4 * vectors.dim * len(table)] for table in vectors.tables])
    loss = np.full(sizes.shape, np.inf)
    worth = sizes <= np.minimum(nbytes, full)
    for slot, feature in enumerate(vectors.features):
        for number, way in enumerate(ways):
            if worth[slot, number]:
                (losses,) = measured({feature.name: way.vectors(fits, slot)}, answers)
                loss[slot, number] = float(losses.mean())
        told(1)
    free = [number for number, way in enumerate(ways) if not way.shared]
    shared = np.array([way.shared for way in ways])
    chosen = allocate(loss, sizes, shared, nbytes - _PADDING * len(ways), free)
    if chosen is None:
        raise SlimtabError(f"no mixture of codes fits {format_bytes(nbytes)}; raise the budget")
    return [ways[number] for number in chosen]


def _join(fits: Fits, ways: Sequence[Way]) -> Made:
    """Make the frozen table of all features, those of one family of ways together."""
    families: dict[Hashable, list[int]] = {}
    for slot, way in enumerate(ways):
        families.setdefault(way.family, []).append(slot)
    groups: list[dict[str, Any]] = []
    tables, shares = [], [0.0] * len(ways)
    for slots in families.values():
        made = ways[slots[0]].served(fits, slots, [ways[slot] for slot in slots])
        for slot, share in zip(slots, made.shares, strict=True):
            shares[slot] = share
        groups.append({"slots": tuple(slots), "method": made.method, "config": made.config})
        tables.append(made.table)
    whole = group_tables([group["slots"] for group in groups], tables, fits.vectors.dim)
    return Made("grouped", {"groups": groups}, whole, shares)


class _Measured:
    """Losses of a model by row, with other vectors in the place of its own."""

    def __init__(self, weights: Mapping[str, Tensor], vectors: Vectors) -> None:
        self.weights, self.features = weights, vectors.features

    def __call__(self, values: Mapping[str, Tensor], *answers: Answers) -> list[Tensor]:
        """Return losses on each set of rows with other vectors for the features named."""
        kept = {name: self.weights[name].clone() for name in values}
        try:
            for name, value in values.items():
                self.weights[name].copy_(value)
            return [each.loss() for each in answers]
        finally:
            for name, value in kept.items():
                self.weights[name].copy_(value)

    def table(self, table: FrozenTable, *answers: Answers) -> list[Tensor]:
        """Return losses on each set of rows with a frozen table for all features."""
        values = {}
        for slot, feature in enumerate(self.features):
            ids = torch.arange(feature.num_ids)
            values[feature.name] = table(ids, torch.full_like(ids, slot))
        return self(values, *answers)
