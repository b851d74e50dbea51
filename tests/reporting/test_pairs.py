"""Differences paired by seed: mean, spread, and whether they could be chance."""

import statistics

import pytest
from scipy.stats import ttest_1samp
from test_pivot import FULL, FULL_AUC, LOSS, hashed

from slimtab.reporting.pairs import Gap, gap


def test_is_paired_by_seed():
    """Whatever the order of the runs: the spread of seeds drops out, that of the differences stays."""
    found = gap(hashed((2, 0, 1)), FULL)
    assert found.mean == pytest.approx(-0.002)
    assert found.std == pytest.approx(statistics.stdev(LOSS.values()))
    assert found.std < 0.1 * statistics.stdev(FULL_AUC.values())
    assert found.seeds == 3


def test_p_is_that_of_the_differences():
    """A paired t-test is a one-sample test of the differences against zero."""
    assert gap(hashed(), FULL).p == pytest.approx(ttest_1samp(list(LOSS.values()), 0).pvalue)


def test_two_seeds_are_not_tested():
    """With one degree of freedom a p-value is a promise that two runs cannot keep."""
    found = gap(hashed((0, 1)), FULL)
    assert (found.p, found.seeds) == (None, 2)
    assert found.std is not None
    assert gap(hashed((0,)), FULL).std is None


def test_seeds_that_only_one_has_are_left_out():
    """The mean of other seeds is not a difference of methods."""
    assert gap(hashed(), FULL[1:]).mean == pytest.approx(-0.0015)
    assert gap(hashed((0,)), FULL[1:]) is None


def test_no_spread_is_no_proof():
    """Equal differences would divide by zero, and full against itself differs by nothing."""
    assert gap(FULL, FULL).p is None


def test_texts():
    """A p from three seeds on; before that, how many seeds there are, one of them too."""
    assert Gap(-0.002, 0.001, 0.03, 3).text() == "−0.0020 ± 0.0010, p 0.03"
    assert Gap(0.1, 0.001, 1e-9, 3).text() == "+0.1000 ± 0.0010, p < 0.001"
    assert Gap(-0.002, 0.001, None, 2).text() == "−0.0020 ± 0.0010 (2 seeds)"
    assert Gap(-0.002, None, None, 1).text() == "−0.0020 (1 seed)"
