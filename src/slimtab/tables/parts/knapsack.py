"""Settings of features as a knapsack: as much energy, or as little loss, as fits into so many bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_UNITS = 2000  # that a budget is divided into; bytes are rounded up, so it is never exceeded


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


def least_loss(
    loss: NDArray[np.float64], nbytes: NDArray[np.int64], budget: int
) -> tuple[float, list[int]] | None:
    """Return the least total loss within ``budget``, and the step of each feature; None where nothing fits.

    A multiple-choice knapsack (Sinha & Zoltners, Operations Research 1979), solved by dynamic programming.

    Args:
        loss: what each feature loses on each step [F, S].
        nbytes: what it takes there [F, S].
        budget: bytes in all.
    """
    weights = -(-nbytes * _UNITS // budget)
    least, chosen = np.zeros(_UNITS + 1), []
    for costs, weight in zip(loss, weights, strict=True):
        tried = np.full((len(costs), _UNITS + 1), np.inf)
        for step, (cost, units) in enumerate(zip(costs, weight.tolist(), strict=True)):
            if units <= _UNITS:
                tried[step, units:] = least[: _UNITS + 1 - units] + cost
        chosen.append(tried.argmin(axis=0))
        least = tried.min(axis=0)
    if not np.isfinite(least[-1]):
        return None
    left, picked = _UNITS, []
    for choice, weight in zip(reversed(chosen), weights[::-1], strict=True):
        picked.append(int(choice[left]))
        left -= int(weight[picked[-1]])
    return float(least[-1]), picked[::-1]


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
