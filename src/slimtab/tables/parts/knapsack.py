"""Widths of features as a knapsack: as much energy as fits into so many floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def choose_widths(sizes: Sequence[int], energy: NDArray[np.float64], floats: int) -> list[int]:
    """Return the width of each feature, 1 or more, that keeps much energy where Σ size · width ≤ ``floats``.

    Args:
        sizes: ids of each feature [F].
        energy: of each coordinate of each feature [F, dim].
        floats: at least Σ size.
    """
    widths, left = [1] * len(sizes), floats - sum(sizes)
    # Greedy by energy per float. A coordinate that hides a better one counts as much as the two on average
    # (the slopes of the least concave curve above the cumulated energy), so each feature's order is kept.
    slopes = _falling(energy[:, 1:]) / np.array(sizes)[:, None]
    for step in np.argsort(-slopes.ravel(), kind="stable").tolist():
        slot, coordinate = divmod(step, slopes.shape[1])
        if coordinate + 1 == widths[slot] and sizes[slot] <= left:
            widths[slot] += 1
            left -= sizes[slot]
    return widths


def _falling(energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares fit to ``energy`` [F, D] that never rises along D.

    At i it is the least over j ≤ i of the largest over k ≥ i of the means from j to k.
    """
    first, last = np.ogrid[: energy.shape[1], : energy.shape[1]]
    summed = np.cumsum(np.pad(energy, ((0, 0), (1, 0))), axis=1)
    mean = np.where(
        last >= first, (summed[:, None, 1:] - summed[:, :-1, None]) / np.maximum(last - first + 1, 1), -np.inf
    )
    highest = np.maximum.accumulate(mean[:, :, ::-1], axis=2)[:, :, ::-1]
    fitted: NDArray[np.float64] = np.where(last >= first, highest, np.inf).min(axis=1, initial=np.inf)
    return fitted
