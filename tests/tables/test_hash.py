"""The hashing trick, per feature: collisions inside a feature only, and exact where it costs nothing."""

import torch

from slimtab.schema import Feature
from slimtab.tables.hash import Hash, HashConfig
from slimtab.tables.hashing import hash_rows, make_salts
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("a", 5), Feature("b", 10_000), Feature("c", 3)]


def build(rows=(5, 100, 3), probes=1, features=FEATURES):
    torch.manual_seed(0)
    return Hash(HashConfig(rows=rows, probes=probes), features, 4, PlainRows, 1.0)


def test_each_feature_stays_inside_its_own_rows():
    """A stray row would be another feature's, silently."""
    table = build(probes=3)
    addresses = table.addressing(torch.arange(10_000), torch.ones(10_000, dtype=torch.int64))
    assert int(addresses.min()) == 5
    assert int(addresses.max()) == 104
    assert addresses.shape == (10_000, 3)


def test_exact_features_do_not_collide():
    """As many rows as ids: the id is the row, with every probe."""
    table = build(probes=2)
    assert table.addressing(torch.arange(5), torch.zeros(5, dtype=torch.int64)).tolist() == [
        [n, n] for n in range(5)
    ]
    assert table.addressing(torch.arange(3), torch.full((3,), 2)).tolist() == [
        [n, n] for n in range(105, 108)
    ]


def test_hashed_ids_are_never_taken_for_row_numbers():
    """64-bit ids of a feature with few values: exact addressing would run out of the table."""
    features = [Feature("a", 5, "hash")]
    table = build((5,), 1, features)
    ids = torch.tensor([2**62 + 1, 3, 2**63 - 1])
    addresses = table.addressing(ids, torch.zeros(3, dtype=torch.int64))
    assert int(addresses.max()) < 5
    assert addresses[:, 0].tolist() == hash_rows(ids, make_salts(["a"], 1)[0, 0], 5).tolist()


def test_an_id_is_the_mean_of_its_probes():
    """Serrà & Karatzoglou, RecSys 2017."""
    table = build(probes=4)
    ids, slot = torch.arange(50), torch.ones(50, dtype=torch.int64)
    expected = table.rows.values()[table.addressing(ids, slot)].mean(dim=1)
    torch.testing.assert_close(table(ids, slot), expected)


def test_more_probes_tell_more_ids_apart():
    """100 rows hold at most 100 vectors with one probe, and thousands with two."""
    slot = torch.ones(10_000, dtype=torch.int64)
    distinct = [len(build(probes=p)(torch.arange(10_000), slot).unique(dim=0)) for p in (1, 2)]
    assert distinct[0] == 100
    assert distinct[1] > 3500  # of 5050 unordered pairs


def test_features_add_no_rows_to_each_other():
    """Each feature's bytes are its own rows and seeds."""
    table = build()
    assert table.bytes_by_feature() == [16 * 5 + 16, 16 * 100 + 16, 16 * 3 + 16]
    assert sum(table.bytes_by_feature()) == table.serve_bytes()


def test_adding_a_feature_moves_nobody_elses_rows():
    """Salts follow names: an old model's ids keep their rows when a column is added."""
    wide = [Feature("new", 50), *FEATURES]
    table, other = build(), build((7, 5, 100, 3), 1, wide)
    ids = torch.arange(1000)
    before = table.addressing(ids, torch.full((1000,), 1)) - 5
    after = other.addressing(ids, torch.full((1000,), 2)) - 12
    assert torch.equal(before, after)
