"""MEmCom: rows shared by hash, a factor and a bias of each id's own."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.hashing import hash_rows, make_salts
from slimtab.tables.memcom import Memcom, MemcomConfig
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id

FEATURES = [Feature("a", 50), Feature("b", 3000), Feature("c", 4)]


def build(rows=20, bias=True, make_rows=PlainRows):
    torch.manual_seed(0)
    table = Memcom(MemcomConfig(rows, bias), FEATURES, 4, make_rows, 1.0)
    table.own.assign(torch.randn(3054, 1 + bias))
    return table


@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_paper(bias):
    """E[h(x)] · (1 + s_x) + b_x for every id, trained and frozen."""
    table = build(bias=bias)
    shared, own = table.shared.values().numpy(), table.own.values().numpy()
    expected, number = [], 0
    for feature in FEATURES:
        salt = make_salts([feature.name], 1)[0, 0]
        for x in range(feature.num_ids):
            row = shared[int(hash_rows(torch.tensor(x), salt, 20))]
            expected.append(row * (1 + own[number, 0]) + (own[number, 1] if bias else 0))
            number += 1
    for lookup in (table, table.freeze()):
        got = lookup(*every_id(table)).detach().numpy()
        np.testing.assert_allclose(got, np.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_ids_of_one_row_differ(bias):
    """That is what an id's own numbers are for: one row, 3054 vectors."""
    table = build(rows=1, bias=bias)
    assert len(table(*every_id(table)).unique(dim=0)) == 3054


def test_the_same_id_of_two_features_reads_another_row():
    """The table is shared, so the hash is salted by feature."""
    table, ids = build(rows=1000), torch.arange(50)
    (a, p), (b, q) = (table.addresses(ids, torch.full_like(ids, slot)) for slot in (0, 1))
    assert int((a == b).sum()) < 4
    assert not set(p.tolist()) & set(q.tolist())


def test_decay_pulls_factors_to_one_and_biases_to_zero():
    """A factor decayed to 0 would erase ids that are rare."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.1, weight_decay=1.0)))
    for _ in range(200):
        table.own.step()
    torch.testing.assert_close(table.freeze().own, torch.tensor([[1.0, 0.0]]).expand(3054, 2))


def test_starts_as_its_hashed_row():
    """Factors start at 1 and biases at 0, so start values have the variance of the rows."""
    table = Memcom(MemcomConfig(20, True), FEATURES, 4, PlainRows, 0.1)
    ids, slot = every_id(table)
    row, _ = table.addresses(ids, slot)
    assert torch.equal(table(ids, slot), table.shared(row))


@pytest.mark.parametrize(("bias", "per_id"), [(True, 8), (False, 4)])
def test_what_ids_own_is_counted_and_sets_the_smallest_size(bias, per_id):
    """At width 16 these are 12.5 % and 6.25 % of the full table, whatever is shared."""
    fixed = per_id * 3054 + 8 * 3
    config = MemcomConfig.for_budget(FEATURES, 4, fixed + 16 * 7 + 15, bias=bias)
    assert config.rows == 7
    assert Memcom(config, FEATURES, 4, PlainRows, 0.1).serve_bytes() == fixed + 16 * 7
    with pytest.raises(SlimtabError, match=f"smallest size here is .*{fixed + 16} bytes"):
        MemcomConfig.for_budget(FEATURES, 4, fixed + 15, bias=bias)


def test_hashed_ids_are_refused():
    """There is no row of its own for an id that may be anything."""
    with pytest.raises(SlimtabError, match="'h' has hashed ids, and memcom needs numbered ones"):
        Memcom(MemcomConfig(5), [Feature("h", 10, "hash")], 4, PlainRows, 0.1)


def test_stats():
    """The load of the shared rows."""
    assert build().stats() == {"rows": 20, "ids_per_row": 3054 / 20}
