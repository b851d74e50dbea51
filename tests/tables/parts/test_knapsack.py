"""Widths as a knapsack: as much energy as fits."""

import itertools

import numpy as np
import pytest

from slimtab.tables.parts.knapsack import choose_widths


def brute_force(sizes, energy, floats):
    """Return the most energy that any choice of widths keeps."""
    dim = energy.shape[1]
    best = -1.0
    for widths in itertools.product(range(1, dim + 1), repeat=len(sizes)):
        if np.dot(sizes, widths) <= floats:
            best = max(best, sum(energy[f, :w].sum() for f, w in enumerate(widths)))
    return best


@pytest.mark.parametrize("seed", range(30))
def test_greedy_keeps_nearly_what_the_best_choice_keeps(seed):
    """Within the largest single step of brute force over all widths, whatever the energies."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, 4).tolist()
    energy = rng.exponential(1.0, (4, 5)) * np.array(sizes)[:, None]
    floats = int(rng.integers(sum(sizes), 5 * sum(sizes) + 1))
    widths = choose_widths(sizes, energy, floats)
    assert np.dot(sizes, widths) <= floats
    kept = sum(energy[f, :w].sum() for f, w in enumerate(widths))
    assert kept >= brute_force(sizes, energy, floats) - energy.max()


def test_a_weak_coordinate_does_not_hide_a_strong_one():
    """Greedy by the next coordinate alone would never get past the second."""
    energy = np.array([[1.0, 0.0, 9.0], [1.0, 1.0, 1.0]])
    assert choose_widths([10, 10], energy, 40) == [3, 1]


def test_the_first_coordinate_is_kept_in_any_case():
    """It costs nothing more, so it must not make what stands behind it look worse."""
    energy = np.array([[0.0, 3.0], [5.0, 2.0]])
    assert choose_widths([10, 10], energy, 30) == [2, 1]
    assert choose_widths([3, 5], np.ones((2, 1)), 20) == [1, 1]


def test_everything_that_fits_is_kept():
    """A large feature that does not fit must not stop the small ones behind it."""
    energy = np.array([[9.0, 9.0], [1.0, 1.0], [1.0, 1.0]])
    assert choose_widths([100, 3, 2], energy, 110) == [1, 2, 2]
    assert choose_widths([100, 3, 2], energy, 210) == [2, 2, 2]
