"""The standard error of a difference of AUCs on the same rows."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from slimtab.search.auc_error import auc_error


def two_models(rows, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    signal, clicked = rng.normal(size=rows), rng.random(rows) < 0.3
    shared = signal + clicked
    scores, others = shared + 0.3 * rng.normal(size=rows), shared + 0.6 * rng.normal(size=rows)
    if ties:
        scores, others = scores.round(), others.round()
    return scores.astype(np.float32), others.astype(np.float32), clicked


@pytest.mark.parametrize("ties", [False, True])
def test_equals_pairs_counted_one_by_one(ties):
    """DeLong's components, from the definition: every click against every other row."""
    scores, others, clicked = two_models(200, ties=ties)

    def wins(of):
        first, second = of[clicked][:, None], of[~clicked][None, :]
        return (first > second) + 0.5 * (first == second)

    gap = wins(scores) - wins(others)
    rows, columns = gap.mean(axis=1), gap.mean(axis=0)
    expected = np.sqrt(rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns))
    assert auc_error(scores, others, clicked) == pytest.approx(expected)


def test_is_what_differences_vary_by():
    """Over samples of the same two models, differences spread by as much as one sample says."""
    samples = [two_models(2000, seed) for seed in range(200)]
    gaps = [roc_auc_score(c, s) - roc_auc_score(c, o) for s, o, c in samples]
    told = np.mean([auc_error(*sample) for sample in samples])
    assert told == pytest.approx(np.std(gaps, ddof=1), rel=0.2)


def test_is_nothing_for_the_same_model():
    """Also where scores are moved and stretched, which changes no order."""
    scores, _, clicked = two_models(500)
    assert auc_error(scores, 3 * scores + 1, clicked) == 0
