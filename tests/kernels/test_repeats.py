"""Ids that stood nearby: found where they are remembered, never taken for others."""

import numba
import numpy as np
import pytest

from slimtab.kernels.repeats import WINDOW, copy_repeats, find_repeats, nothing_seen


@numba.njit
def sources(ids, slot):
    """For each position the one to copy from, or −1 where the id is new."""
    seen = nothing_seen(len(ids))
    new, old = np.empty(WINDOW, np.int64), np.empty((WINDOW, 2), np.int64)
    source = np.full(len(ids), -2)
    for first in range(0, len(ids), WINDOW):
        stop = min(first + WINDOW, len(ids))
        fresh = find_repeats(ids, slot, first, stop, seen, new, old)
        for i in range(fresh):
            source[new[i]] = -1
        for i in range(stop - first - fresh):
            source[old[i, 0]] = old[i, 1]
    return source


@numba.njit
def copied(source, out, width):
    old = np.stack((np.arange(len(source)), source), axis=1)
    copy_repeats(old, len(source), width, out)


@pytest.mark.parametrize(("ids", "least"), [(5, 1.0), (1000, 0.8), (10**6, 0.0)])
@pytest.mark.parametrize("count", [0, 1, WINDOW, 20_000])
def test_a_repeat_is_the_same_id_of_the_same_feature_earlier(count, ids, least):
    """The slow way: a dictionary of all pairs so far."""
    rng = np.random.default_rng(count)
    each, slot = rng.integers(ids, size=count), rng.integers(7, size=count)
    source, before, found, there = sources(each, slot), {}, 0, 0
    for position, pair in enumerate(zip(each, slot, strict=True)):
        there += pair in before
        if source[position] != -1:
            assert source[position] == before[pair]
            found += 1
        before[pair] = position
    assert found >= least * there


@pytest.mark.parametrize("number", [-1, -(2**63), 2**63 - 1, 2**32])
def test_what_is_no_id_or_no_feature_is_looked_up(number):
    """A lookup is what refuses it; memory that holds nothing yet must not look like it."""
    ids = np.array([number, 5, number, 5])
    assert sources(ids, np.array([3, 3, 4, 3])).tolist() == [-1, -1, -1, 1]
    assert sources(np.array([5, -1]), np.array([number, number])).tolist() == [-1, -1]


def test_features_that_differ_above_32_bits_are_told_apart():
    """The memory keeps 32 bits of a feature's number; no table has more, but an index that is wrong may."""
    assert sources(np.array([5, 5]), np.array([3, 3 + 2**32])).tolist() == [-1, -1]


@pytest.mark.parametrize("width", [3, 16])
def test_a_copy_of_a_copy_is_there_in_time(width):
    """Rows are copied in ascending order."""
    out = np.arange(4 * width, dtype=np.float32)
    copied(np.array([0, 0, 1, 2]), out, width)
    assert out.reshape(4, width).tolist() == 4 * [list(range(width))]
