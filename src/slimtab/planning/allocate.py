"""The least loss in so many bytes: one step of the ladder for each feature.

Features on the same step share codewords, so the bytes of a step do not add up by feature alone: each choice
of a few steps is a knapsack for itself, with its codewords taken off the budget first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from slimtab.tables.parts.knapsack import least_loss

_GROUPS = 3  # different steps that a plan may use; each is a table of its own
_PRICE = 1e-6  # nats for the whole budget: where nothing is lost either way, fewer bytes are better


def allocate(
    loss: NDArray[np.float64],
    nbytes: NDArray[np.int64],
    shared: NDArray[np.int64],
    budget: int,
    free: Sequence[int] = (),
) -> list[int] | None:
    """Return the step of each feature, or None where nothing fits.

    Args:
        loss: nats each feature loses on each step [F, S].
        nbytes: what it serves there [F, S].
        shared: what a step serves once, whoever stands on it [S].
        budget: bytes in all.
        free: steps that share nothing, and that every plan may use beside its few.
    """
    best: tuple[float, list[int]] | None = None
    steps = [step for step in range(loss.shape[1]) if step not in free]
    for some in (some for size in range(_GROUPS + 1) for some in combinations(steps, size)):
        used = [*some, *free]
        if not used:
            continue
        left = budget - int(shared[used].sum())
        if left <= 0:
            continue
        found = least_loss(loss[:, used] + _PRICE * nbytes[:, used] / budget, nbytes[:, used], left)
        if found is not None:
            total = found[0] + _PRICE * (budget - left) / budget
            if best is None or total < best[0]:
                best = total, [used[choice] for choice in found[1]]
    return None if best is None else best[1]
