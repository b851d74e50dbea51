"""The methods by name: how small each gets, and how it codes vectors within so many bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from slimtab.errors import SlimtabError, nearest
from slimtab.shrinking.binary import fit_binary, largest_binary, smallest_binary
from slimtab.shrinking.made import Made
from slimtab.shrinking.product import fit_product
from slimtab.shrinking.residual import fit_residual
from slimtab.shrinking.row_steps import fit_row_steps
from slimtab.shrinking.shared import fit_dedup, fit_pruned, fit_trains
from slimtab.shrinking.vectors import Vectors
from slimtab.tables.base import EmbeddingTable, FrozenTable, in_last_stage
from slimtab.tables.dedup import Dedup
from slimtab.tables.dpq import DPQ
from slimtab.tables.fitted.row_steps import RowSteps
from slimtab.tables.parts.pruning import PrunedConfig
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.rq import RQ
from slimtab.tables.tt import TT

Told = Callable[[int], object]


@dataclass(frozen=True)
class Method:
    """How one method codes.

    Attributes:
        smallest: the fewest bytes for a group.
        fit: codes a group within so many bytes; takes a seed and what to tell of rows done.
        sized: whether the method has one size only, and needs no budget.
    """

    smallest: Callable[[Vectors], int]
    fit: Callable[[Vectors, int, int, Told], Made]
    sized: bool = False


def get_method(name: str) -> Method:
    """Return a method.

    Raises:
        SlimtabError: when none has that name, naming the nearest.
    """
    if name not in METHODS:
        raise SlimtabError(f"shrink has no method '{name}'{nearest(name, METHODS)}")
    return METHODS[name]


def _row_steps(bits: int) -> Method:
    config = RowSteps(bits)

    def fit(vectors: Vectors, nbytes: int, seed: int, told: Told) -> Made:
        return Made(config.method, asdict(config), fit_row_steps(vectors, config, told), _ids(vectors))

    return Method(lambda vectors: config.nbytes(vectors.rows, vectors.dim), fit, sized=True)


def _by_config(kind: type[EmbeddingTable], fit: Callable[[Vectors, Any, int, Told], FrozenTable]) -> Method:
    """Return a method whose settings a method of training chooses, and whose frozen table that one makes."""

    def fitted(vectors: Vectors, nbytes: int, seed: int, told: Told) -> Made:
        config = kind.Config.for_budget(vectors.features, vectors.dim, nbytes)
        table = fit(vectors, config, seed, told)
        with torch.device("meta"):
            like = in_last_stage(kind(config, vectors.features, vectors.dim, PlainRows, 0.0))
            shares = like.bytes_by_feature()
        return Made(kind.method, asdict(config), table, shares)

    return Method(lambda vectors: kind.Config.smallest_bytes(vectors.features, vectors.dim), fitted)


def _binary(vectors: Vectors, nbytes: int, seed: int, told: Told) -> Made:
    config = largest_binary(vectors, nbytes, seed)
    return Made(config.method, asdict(config), fit_binary(vectors, config, seed, told), _ids(vectors))


def _pruned(vectors: Vectors, nbytes: int, seed: int, told: Told) -> Made:
    config, table, elements = fit_pruned(vectors, nbytes)
    told(vectors.rows)
    return Made("deeplight", asdict(config), table, elements)


def _ids(vectors: Vectors) -> list[int]:
    return [feature.num_ids for feature in vectors.features]


METHODS = {
    "int8": _row_steps(8),
    "int4": _row_steps(4),
    "int2": _row_steps(2),
    "rq": _by_config(RQ, fit_residual),
    "pq": _by_config(DPQ, fit_product),
    "binary": Method(smallest_binary, _binary),
    "dedup": _by_config(Dedup, fit_dedup),
    "tt": _by_config(TT, fit_trains),
    "prune": Method(lambda v: PrunedConfig.smallest_bytes(v.features, v.dim), _pruned),
}
