"""A gain counts when rows agree on it."""

import numpy as np

from slimtab.planning.noise import surely_less


def test_a_gain_that_rows_agree_on_counts():
    losses = np.random.default_rng(0).random(10_000)
    assert surely_less(losses - 1e-6, losses)
    assert not surely_less(losses + 1e-6, losses)
    assert not surely_less(losses, losses)


def test_luck_is_seldom_taken_for_a_gain():
    """Rows that differ by chance alone: one model in forty seems better by two standard errors."""
    draws = np.random.default_rng(1)
    rows = draws.random(2_000)
    lucky = sum(surely_less(rows + draws.normal(0, 0.1, 2_000), rows) for _ in range(400))
    assert 1 <= lucky <= 25
