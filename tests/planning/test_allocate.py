"""The allocation against every possible one, tried in turn."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.planning.allocate import allocate

PRICE = 1e-6


def cost(loss, nbytes, shared, steps):
    """Bytes and loss of an allocation, codewords counted once per step in use."""
    used = sum(shared[step] for step in set(steps))
    return used + sum(nbytes[f][s] for f, s in enumerate(steps)), sum(loss[f][s] for f, s in enumerate(steps))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_is_as_good_as_trying_everything(data):
    features, ladder = data.draw(st.integers(1, 4)), 4
    falling = st.lists(st.floats(0, 1), min_size=ladder, max_size=ladder).map(
        lambda x: sorted(x, reverse=True)
    )
    rising = st.lists(st.integers(1, 400), min_size=ladder, max_size=ladder).map(sorted)
    loss = np.array([data.draw(falling) for _ in range(features)])
    nbytes = np.array([data.draw(rising) for _ in range(features)])
    shared = np.array(data.draw(st.lists(st.integers(0, 100), min_size=ladder, max_size=ladder)))
    budget = data.draw(st.integers(1, 2000))
    found = allocate(loss, nbytes, shared, budget)
    tried = [
        cost(loss, nbytes, shared, steps)
        for steps in product(range(ladder), repeat=features)
        if len(set(steps)) <= 3
    ]
    if found is not None:
        size, lost = cost(loss, nbytes, shared, found)
        assert size <= budget
        # Bytes are rounded up to 1/2000 of the budget for each feature: what just fits may be missed.
        safe = [lost for size, lost in tried if size <= budget * (1 - (features + 1) / 2000)]
        assert lost <= min(safe, default=np.inf) + 2 * PRICE
    else:
        assert all(size > budget * (1 - (features + 1) / 2000) for size, _ in tried)


def test_bytes_that_bring_nothing_are_not_spent():
    """A step up that loses no less is left alone, however much of the budget is over."""
    loss, nbytes = np.array([[0.0, 0.0, 0.0]]), np.array([[10, 20, 40]])
    assert allocate(loss, nbytes, np.zeros(3, dtype=int), 1000) == [0]


def test_the_feature_that_loses_more_gets_the_bytes():
    loss, nbytes = np.array([[1.0, 0.0], [0.1, 0.0]]), np.array([[10, 100], [10, 100]])
    assert allocate(loss, nbytes, np.zeros(2, dtype=int), 115) == [1, 0]


@pytest.mark.parametrize("budget", [1, 19])
def test_nothing_fits(budget):
    assert allocate(np.zeros((2, 1)), np.full((2, 1), 10), np.zeros(1, dtype=int), budget) is None
