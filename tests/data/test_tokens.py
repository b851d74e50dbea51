"""Token hashing and the reading of cells as tokens."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimtab.data.tokens import as_token_lists, as_tokens, hash_tokens, salt_of

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15

tokens = st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=30)


def reference(token: bytes, salt: int) -> int:
    """The hash, one token and one word at a time."""
    state = salt
    for start in range(0, len(token), 8):
        mixed = (state ^ int.from_bytes(token[start : start + 8], "little")) * _GOLDEN & _MASK
        state = mixed ^ (mixed >> 32)
    state ^= len(token) * _GOLDEN & _MASK
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
    return max((state ^ (state >> 31)) & (2**63 - 1), 1)


@given(tokens, st.integers(0, _MASK))
def test_hash_equals_the_slow_reference(words: list[str], salt: int) -> None:
    hashes = hash_tokens(pa.array(words, pa.string()), salt)
    assert hashes.tolist() == [reference(word.encode(), salt) for word in words]


@given(tokens, st.integers(0, 10), st.integers(0, 10))
def test_hash_of_a_slice_is_the_slice_of_the_hash(words: list[str], start: int, length: int) -> None:
    array = pa.array(words, pa.string())
    assert (
        hash_tokens(array.slice(start, length), 5).tolist()
        == hash_tokens(array, 5)[start : start + length].tolist()
    )


def test_hash_is_the_same_on_every_version_and_platform() -> None:
    hashes = hash_tokens(pa.array(["", "a", "68fd1e64", "68fd1e6480d1f3b2", "é" * 20]), salt_of("C1", seed=0))
    golden = [
        8044196705459376490,
        4758528463372076268,
        8152501517509330272,
        5995399384183958873,
        1197812522724440386,
    ]
    assert hashes.tolist() == golden


def test_neighbouring_columns_and_seeds_never_share_hashes() -> None:
    words = pa.array([f"{i:08x}" for i in range(20_000)])
    sets = [
        set(hash_tokens(words, salt_of(column, seed)).tolist()) for column in ("C1", "C2") for seed in (0, 1)
    ]
    assert [len(found) for found in sets] == [20_000] * 4
    assert len(set.union(*sets)) == 80_000


def test_hashes_spread_evenly() -> None:
    parts = hash_tokens(pa.array([str(i) for i in range(64_000)]), 0) % 64
    counts = [int((parts == part).sum()) for part in range(64)]
    assert 850 < min(counts) < max(counts) < 1150


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None, ""]), ["a", "", ""]),
        (pa.array([12, None]), ["12", ""]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.chunked_array([["a"], ["b"]]), ["a", "b"]),
    ],
)
def test_cells_as_tokens(column: pa.Array, expected: list[str]) -> None:
    assert as_tokens(column).to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a|b", "", None, "c", "a||d|"]), [["a", "b"], [], [], ["c"], ["a", "d"]]),
        (pa.array([["a", "b"], [], None, ["c"]]), [["a", "b"], [], [], ["c"]]),
        (pa.array([[1, 2], [3]]), [["1", "2"], ["3"]]),
        (pa.array([["x"], ["a", "b"], ["c"]]).slice(1, 1), [["a", "b"]]),
    ],
)
def test_cells_as_token_lists(column: pa.Array, expected: list[list[str]]) -> None:
    assert as_token_lists(column, "|").to_pylist() == expected
