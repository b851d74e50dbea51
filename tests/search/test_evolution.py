"""Which point of a front is taken."""

import pytest

from slimtab.errors import SlimtabError
from slimtab.search.evolution import Point, pick
from slimtab.tables.parts.shape import Shape

FRONT = [Point({"rows": i}, Shape((1,), (1,)), 100 * i, auc) for i, auc in enumerate([0.70, 0.74, 0.75], 1)]


class Judge:
    """Says how sure its rows are of any difference."""

    def __init__(self, error):
        self._error = error

    def errors(self, best, others):
        return [0.0 if genes == best else self._error for genes in others]


@pytest.mark.parametrize(("error", "nbytes"), [(0.001, 300), (0.011, 200), (0.06, 100)])
def test_without_a_budget_the_smallest_that_rows_cannot_tell_from_the_best(error, nbytes):
    assert pick(FRONT, Judge(error)).nbytes == nbytes


@pytest.mark.parametrize("error", [0.001, 0.06])
def test_within_a_budget_the_best_that_fits(error):
    """A point beyond it is no yardstick, and what is allowed is not to be saved."""
    assert pick(FRONT, Judge(error), limit=250).nbytes == 200


def test_nothing_fits():
    with pytest.raises(SlimtabError, match="smallest found has 100 bytes"):
        pick(FRONT, Judge(0.0), limit=99)
