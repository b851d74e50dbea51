"""Bytes as people write them: a budget read wrongly would make every later figure wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimtab.errors import SlimtabError
from slimtab.sizes import Budget, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1000", 1000),
        (1000, 1000),
        ("4MB", 4_000_000),
        ("4mb", 4_000_000),
        (" 1.5 GB ", 1_500_000_000),
        ("64KiB", 65_536),
        ("2GiB", 2 * 2**30),
        (".5KB", 500),
        ("3b", 3),
    ],
)
def test_units_are_decimal_unless_spelled_binary(text, nbytes):
    """SI: MB is 10^6 and MiB 2^20; mixing them up misses a budget by 5 %."""
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "MB", "4 apples", "-3MB", "1e6", "4MBMB", "ten"])
def test_what_is_not_a_size_is_named(text):
    """A typing mistake must not silently become some number."""
    with pytest.raises(SlimtabError, match="is not a size"):
        parse_bytes(text)


@given(st.integers(0, 10**15 - 10**12))
def test_formatting_reads_back_to_three_digits(nbytes):
    """What slimtab prints as a size may be given back to it as a budget."""
    assert parse_bytes(format_bytes(nbytes)) == pytest.approx(nbytes, rel=0.01)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (4_200_000, "4.2 MB"), (3.5e9, "3.5 GB"), (2e12, "2 TB")],
)
def test_format(nbytes, text):
    """Decimal units, so that 1000 bytes never appear as 0.98 KB beside a budget of 1 KB."""
    assert format_bytes(nbytes) == text


@pytest.mark.parametrize(
    ("text", "resolved"),
    [("10%", 100), ("0.1%", 1), ("100%", 1000), (" 12.5 % ", 125), ("4MB", 4_000_000), (77, 77), ("77", 77)],
)
def test_budget_is_a_share_or_a_size(text, resolved):
    """Both forms of design §3, against a full table of 1000 bytes."""
    assert Budget.parse(text).resolve(1000) == resolved


@given(percent=st.integers(1, 100), full=st.integers(100, 10**12))
def test_a_share_is_never_resolved_above_itself(percent, full):
    """Binary fractions: 10 % of 1000 is 100, not 99 and not 101."""
    assert Budget.parse(f"{percent}%").resolve(full) == pytest.approx(percent * full // 100, rel=1e-12, abs=0)


@pytest.mark.parametrize("text", ["0%", "0", 0, "0MB", -100])
def test_an_empty_budget_is_refused(text):
    """Zero bytes hold no table, and a budget of zero is nearly always a mistake in a script."""
    with pytest.raises(SlimtabError, match="more than zero"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["ten percent", "10 %%", "MB", "-5%", "-100"])
def test_what_is_no_budget_says_both_forms(text):
    """The message teaches the two forms there are."""
    with pytest.raises(SlimtabError, match="neither a share like 10% nor a size like 4MB"):
        Budget.parse(text)
