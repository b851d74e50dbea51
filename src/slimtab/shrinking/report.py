"""How near the vectors of a shrunk table are to those it was made of, in one pass over both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from slimtab.shrinking.shrunk import Group
from slimtab.shrinking.vectors import Vectors

LIMITS = (0.01, 0.03, 0.1, 0.3, 1.0)  # of a row's length, that rows are counted by
_CHUNK = 1 << 16  # rows at a time
_TINY = 1e-30


def figures_of(group: Group, vectors: Vectors, told: Callable[[int], object]) -> dict[str, dict[str, Any]]:
    """Return figures by table.

    Args:
        group: coded.
        vectors: what it was made of.
        told: called with the rows done.

    Returns:
        ``rows``, ``dim``, ``full_bytes``, ``bytes``; ``rmse`` of a coordinate; ``relative_error``, the root
        of squared errors over squares; the same ``by_count``, weighed by how often ids are read, where that
        is known; ``cosine``, mean over rows; ``rows_by_error``, the share of rows whose error is at most 1,
        3, 10, 30 and 100 % of their length.
    """
    sizes = _divided(group.table.serve_bytes(), group.shares)
    found = {}
    for slot, (feature, table, nbytes) in enumerate(
        zip(vectors.features, vectors.tables, sizes, strict=True)
    ):
        start = int(vectors.offset[slot])
        counts = vectors.counts[start : start + len(table)] if vectors.counted else None
        figures = _compare(group, slot, table, counts, told)
        size = {"rows": len(table), "dim": group.dim, "full_bytes": 4 * table.numel(), "bytes": nbytes}
        found[feature.name] = size | figures
    return found


@torch.no_grad()
def _compare(
    group: Group, slot: int, table: Tensor, counts: Tensor | None, told: Callable[[int], object]
) -> dict[str, Any]:
    sums = torch.zeros(5, dtype=torch.float64)  # errors, squares, both by count, cosines
    within = torch.zeros(len(LIMITS), dtype=torch.int64)
    limits = torch.tensor(LIMITS)
    for start in range(0, len(table), _CHUNK):
        own = table[start : start + _CHUNK].float()
        ids = torch.arange(start, start + len(own))
        coded = group.table(ids, torch.full_like(ids, slot))
        error, square = (own - coded).square().sum(dim=1), own.square().sum(dim=1)
        norms = (square * coded.square().sum(dim=1)).sqrt()
        # A row of zeros that stays one is as near as can be.
        cosine = torch.where(norms > 0, (own * coded).sum(dim=1) / norms.clamp(min=_TINY), error == 0)
        weight = torch.ones(()) if counts is None else counts[start : start + len(own)]
        sums += torch.stack(
            [x.double().sum() for x in (error, square, weight * error, weight * square, cosine)]
        )
        relative = torch.where(error > 0, (error / square.clamp(min=_TINY)).sqrt(), 0.0)
        within += (relative[:, None] <= limits).sum(dim=0)
        told(len(own))
    rows = max(len(table), 1)
    figures: dict[str, Any] = {
        "rmse": float((sums[0] / (rows * group.dim)).sqrt()),
        "relative_error": _root(sums[0], sums[1]),
        "cosine": float(sums[4] / rows),
        "rows_by_error": {
            f"{limit:g}": int(count) / rows for limit, count in zip(LIMITS, within, strict=True)
        },
    }
    if counts is not None:
        figures["relative_error_by_count"] = _root(sums[2], sums[3])
    return figures


def _root(error: Tensor, square: Tensor) -> float:
    return float((error / square.clamp(min=_TINY)).sqrt())


def _divided(nbytes: int, shares: Sequence[float]) -> list[int]:
    """Divide bytes by shares, so that they add up."""
    total = sum(shares)
    edges = [int(nbytes * upto / total) for upto in accumulate(shares, initial=0)]
    return [stop - start for start, stop in pairwise([*edges[:-1], nbytes])]
