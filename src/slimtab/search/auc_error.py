"""How sure a difference between two AUCs is that were measured on the same rows.

DeLong, DeLong & Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves: a nonparametric approach", Biometrics 1988.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def auc_error(scores: NDArray[np.float32], others: NDArray[np.float32], clicked: NDArray[np.bool_]) -> float:
    """Return the standard error of the difference of two AUCs.

    Args:
        scores: of one model [n].
        others: of another model for the same rows [n].
        clicked: what came of them [n].
    """
    one, two = _placements(scores, clicked), _placements(others, clicked)
    variance = sum(np.var(a - b, ddof=1) / len(a) for a, b in zip(one, two, strict=True))
    return float(np.sqrt(variance))


def _placements(
    scores: NDArray[np.float32], clicked: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of the others that each click outranks, and of the clicks that each other does."""
    clicks, rest = scores[clicked], scores[~clicked]
    ranks = rankdata(scores)
    above = ranks[clicked] - rankdata(clicks)
    below = ranks[~clicked] - rankdata(rest)
    return above / len(rest), below / len(clicks)
