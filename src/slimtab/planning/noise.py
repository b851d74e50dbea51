"""Is it better, or was it luck: losses of the same rows under two models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ERRORS = 2.0  # standard errors that a gain must exceed


def surely_less(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether losses ``one`` [N] are lower than ``other`` [N] of the same rows by more than noise.

    The paired difference must exceed two standard errors of its mean. What was chosen among many by
    validation rows looks better than it is; without this, a plan moves by that alone.
    """
    gain, error = paired_gain(one, other)
    return gain > _ERRORS * error


def paired_gain(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Return by how much losses ``one`` [N] are lower than ``other`` [N], and the standard error of that."""
    gained = other - one
    return float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained)))
