"""Hashing of ids into rows: 64-bit, salted, and even.

Public code gets each of these wrong somewhere: float32 division above 2^24, int32 products above 2^31,
raw modulo of ids sorted by frequency, salts that make neighbouring features share a sequence.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.hashing import MAX_ROWS, hash_rows, make_salts, mix64, salted_words, spread
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.unified import Unified, UnifiedConfig


@pytest.fixture(scope="module", params=["compiled", "torch"], autouse=True)
def way(request):
    """Every test twice: as it is compiled, and as torch's own operations say it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(kernels, "installed", lambda: False)
        hash_rows(mix64(torch.zeros(1, dtype=torch.int64)), torch.tensor(0), 1)  # to compile takes a while
        hash_rows(torch.tensor([0]), torch.tensor(0), torch.tensor([1]))
        yield


INT64 = st.integers(-(2**63), 2**63 - 1)
WORD = 2**64 - 1


def splitmix_finalizer(x: int) -> int:
    """The published finalizer, in Python's unbounded integers; input and output as signed 64-bit words."""
    z = x & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z


@given(st.lists(INT64, min_size=1, max_size=50))
def test_mix64_is_the_published_finalizer(values):
    """torch has no uint64 arithmetic; two's complement must come to the same, sign bit and all."""
    assert mix64(torch.tensor(values)).tolist() == [splitmix_finalizer(value) for value in values]


def test_mix64_at_the_edges():
    """Where a sign-extending shift or an overflow would show first."""
    edges = [0, 1, -1, 2**24 + 1, 2**31, -(2**31), 2**32 + 1, 2**63 - 1, -(2**63)]
    assert mix64(torch.tensor(edges)).tolist() == [splitmix_finalizer(edge) for edge in edges]


@given(ids=st.lists(INT64, min_size=1, max_size=50), salt=INT64, rows=st.integers(1, MAX_ROWS))
def test_rows_are_always_inside_the_table(ids, salt, rows):
    """One row outside reads another feature's memory, or crashes in the middle of training."""
    found = hash_rows(torch.tensor(ids), torch.tensor(salt), rows)
    assert int(found.min()) >= 0
    assert int(found.max()) < rows


@given(ids=st.lists(INT64, min_size=1, max_size=50), salt=INT64, rows=st.integers(1, MAX_ROWS))
def test_rows_follow_the_definition(ids, salt, rows):
    """Frozen tables are served elsewhere, perhaps in another language: the rule is part of the format."""
    expected = [(((splitmix_finalizer(i ^ salt) & WORD) >> 33) * rows) >> 31 for i in ids]
    assert hash_rows(torch.tensor(ids), torch.tensor(salt), rows).tolist() == expected


@pytest.mark.parametrize("start", [2**24, 2**31, 2**32, 2**53, 2**62])
def test_neighbouring_large_ids_stay_distinct(start):
    """float32 merges ids above 2^24, int32 wraps at 2^31, float64 merges above 2^53."""
    ids = torch.arange(start - 500, start + 500)
    found = hash_rows(ids, make_salts(["a"], 1)[0, 0], MAX_ROWS)
    assert len(set(found.tolist())) == 1000


@pytest.mark.parametrize(
    "pattern",
    [
        torch.arange(200_000),
        torch.arange(200_000) * 1024,
        torch.arange(200_000) << 40,
        -torch.arange(200_000),
        torch.randint(-(2**63), 2**63 - 1, (200_000,), generator=torch.Generator().manual_seed(0)),
    ],
    ids=["sequential", "multiples", "high bits", "negative", "random"],
)
@pytest.mark.parametrize("rows", [1000, 1024, 997])
def test_rows_are_evenly_used(pattern, rows):
    """Label-encoded ids are sequential. χ² with rows − 1 degrees of freedom, six deviations allowed."""
    salt = make_salts(["C1"], 1)[0, 0]
    counts = torch.bincount(hash_rows(pattern, salt, rows), minlength=rows).double()
    expected = len(pattern) / rows
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - (rows - 1)) < 6 * (2 * (rows - 1)) ** 0.5


NAMES = [f"C{number}" for number in range(1, 27)]


def sequences(probes=4, ids=4000, rows=1000):
    salts = make_salts(NAMES, probes).flatten()
    return hash_rows(torch.arange(ids)[:, None], salts, rows).t()


def test_features_and_probes_share_no_sequence():
    """Agreement of any two sequences is that of chance: 1 in 1000, however close their names and numbers."""
    found = sequences()
    for left, right in itertools.combinations(range(len(found)), 2):
        assert int((found[left] == found[right]).sum()) < 25  # 4 expected


def test_no_sequence_is_a_shift_of_another():
    """Salting by ``x + salt`` would make one feature's ids another's, moved along; none is, by up to ±64."""
    found = sequences(probes=2)[:8]
    for left, right in itertools.permutations(range(8), 2):
        for shift in range(1, 65):
            assert int((found[left, shift:] == found[right, :-shift]).sum()) < 40


def test_salts_depend_on_the_name_not_on_the_position():
    """Adding a feature moves no other feature's rows."""
    few, many = make_salts(["a", "b"], 2), make_salts(["c", "b", "x", "a"], 2)
    assert few[0].tolist() == many[3].tolist()
    assert few[1].tolist() == many[1].tolist()


def test_more_probes_keep_the_first_ones():
    """A probe's salt is its own, so tables with 1 and 4 probes agree on the first."""
    assert make_salts(NAMES, 4)[:, :2].tolist() == make_salts(NAMES, 2).tolist()


def test_salts_are_all_different():
    """Two equal salts would be two probes that are one."""
    assert len(set(make_salts(NAMES, 8).flatten().tolist())) == 26 * 8


def test_salts_do_not_depend_on_the_run():
    """Hash seeds are part of the model: Python's own string hash would change with each process."""
    assert make_salts(["C1"], 2).tolist() == [[4335557806119786122, 6446764290865524764]]


def test_the_same_id_of_two_features_reads_different_rows():
    """What multiplexing lives from: id 7 of one column has nothing to do with id 7 of another."""
    features = [Feature(name, 1000) for name in NAMES]
    table = Unified(UnifiedConfig(rows=100_000, probes=4), features, 16, PlainRows, 0.1)
    found = table.addressing(torch.full((26,), 7), torch.arange(26))
    assert len(set(found.flatten().tolist())) > 100  # of 104, up to chance collisions
    vectors = table(torch.full((26,), 7), torch.arange(26))
    assert len(set(map(tuple, vectors.tolist()))) == 26


def test_words_are_mixed_as_one_by_one():
    ids, slot, salt = torch.tensor([5, 5, -1]), torch.tensor([0, 1, 1]), make_salts(["a", "b"], 3)
    words = salted_words(ids, slot, salt)
    assert words.tolist() == [[int(mix64(i ^ s)) for s in salt[f]] for i, f in zip(ids, slot, strict=True)]


def test_arguments_stay_as_they_are():
    """The arithmetic is in place, but never in what the caller holds: salts are buffers, ids the batch."""
    ids, salt = torch.arange(-50, 50), make_salts(["a"], 100)[0]
    before = ids.clone(), salt.clone()
    words = mix64(ids)
    kept = words.clone()
    hash_rows(ids, salt, torch.full((100,), 7))
    spread(words, 9)
    salted_words(ids, torch.zeros_like(ids), salt[None])
    assert torch.equal(ids, before[0])
    assert torch.equal(salt, before[1])
    assert torch.equal(words, kept)
