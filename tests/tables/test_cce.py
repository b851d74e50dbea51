"""Clustered pointers: sums of two rows per column, and what a clustering does to them."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock
from slimtab.tables.cce import CCE, CCEConfig
from slimtab.tables.parts.clusters import cluster
from slimtab.tables.parts.kmeans import nearest
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("a", 900), Feature("b", 5), Feature("c", 400)]
SLOT = torch.repeat_interleave(torch.arange(3), torch.tensor([900, 5, 400]))
IDS = torch.cat([torch.arange(feature.num_ids) for feature in FEATURES])


def build(rows=20, columns=4, clusterings=2, dim=8, make_rows=PlainRows):
    torch.manual_seed(0)
    return CCE(CCEConfig(rows, columns, clusterings), FEATURES, dim, make_rows, 1.0)


def hashed(table):
    """Return hashed rows [n, columns] of all ids."""
    return torch.stack([table._hashed(column) for column in range(table.columns)], dim=1)


def reference(table):
    """Return vectors of all ids, one column after another."""
    rows = table.rows.values().view(2, table.columns, table.num_rows, -1).numpy()
    pointers, buckets = table.pointers.numpy(), hashed(table).numpy()
    return np.concatenate(
        [
            rows[0, column][pointers[:, column]] + rows[1, column][buckets[:, column]]
            for column in range(table.columns)
        ],
        axis=1,
    )


def alike(rows=40, make_rows=PlainRows):
    """Return a table whose ids come in 40 kinds, as training would make them, and their vectors.

    Pointers and hash follow the kinds through rows that are nearly the same; they themselves are random.
    """
    table = build(rows=rows, make_rows=make_rows)
    values = table.rows.values().view(2, 4, rows, 2)
    values[0] = torch.randn(4, 40, 2)[:, torch.arange(rows) % 10]  # ten kinds of row in each column
    values[1] *= 0.05
    table.rows.assign(values.flatten(0, 2))
    return table, table(IDS, SLOT).detach().clone()


@pytest.mark.parametrize("rows", [2, 20, 64, 300])
@pytest.mark.parametrize("columns", [1, 2, 4, 8])
def test_lookup_and_frozen_equal_the_obvious_sum(rows, columns):
    """In each column the row pointed at plus the row hashed to, also after pointers were learned."""
    table = build(rows, columns)
    for _ in range(2):
        expected = torch.from_numpy(reference(table))
        torch.testing.assert_close(table(IDS, SLOT).detach(), expected, rtol=0, atol=0)
        torch.testing.assert_close(table.freeze()(IDS, SLOT), expected, rtol=0, atol=0)
        table.cluster()


def test_clustering_keeps_what_the_table_says():
    """Training goes on from nearly the same vectors: the loss must not jump."""
    table, before = alike()
    table.cluster()
    after = table(IDS, SLOT).detach()
    assert float((after - before).square().mean()) < 0.01 * float(before.square().mean())


def test_clustering_is_better_than_random_pointers():
    """Learned pointers are what is paid for: random ones with the best rows for them leave far more over."""
    table, before = alike()
    table.cluster()
    learned = float((table(IDS, SLOT).detach() - before).square().mean())
    random = torch.randint(40, table.pointers.shape)
    table.pointers.copy_(random)
    rows = table.rows.values().view(2, 4, 40, 2)
    for column in range(4):
        part = before[:, 2 * column : 2 * column + 2]
        rows[0, column] = table._means(part, random[:, column])
        rows[1, column] = table._means(part - rows[0, column][random[:, column]], hashed(table)[:, column])
    table.rows.assign(rows.flatten(0, 2))
    guessed = float((table(IDS, SLOT).detach() - before).square().mean())
    assert learned < 0.2 * guessed


def test_vectors_are_read_before_their_hash_is_salted_anew():
    """The public code reads later batches through the new salt: centroids of another table's sums."""
    table, before = alike()
    table.cluster()
    rows = table.rows.values().view(2, 4, 40, 2)
    for column in range(4):
        part = before[:, 2 * column : 2 * column + 2]
        assert torch.equal(nearest(part, rows[0, column]), table.pointers[:, column].long())
        left = (part - rows[0, column][table.pointers[:, column].long()]).numpy()
        buckets = hashed(table)[:, column].numpy()
        for bucket in range(40):
            inside = left[buckets == bucket]
            mean = inside.mean(axis=0) if len(inside) else np.zeros(2)
            np.testing.assert_allclose(rows[1, column, bucket].numpy(), mean, atol=1e-5)


def test_each_clustering_hashes_anew():
    """Ids that shared a hashed row before should not share it for ever."""
    table = build(rows=100)
    seen = [hashed(table)]
    for _ in range(2):
        table.cluster()
        seen.append(hashed(table))
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert float((seen[one] == seen[other]).float().mean()) < 0.03  # one in a hundred by chance
    assert float((seen[1][:, 0] == seen[1][:, 1]).float().mean()) < 0.03  # columns differ too


def test_empty_buckets_are_zero():
    """Three hundred ids leave many of a thousand buckets empty; dividing by none would give NaN."""
    torch.manual_seed(0)
    table = CCE(CCEConfig(1000, 4, 2), [Feature("a", 1200)], 8, PlainRows, 1.0)
    table.cluster()
    rows = table.rows.values()
    assert bool(torch.isfinite(rows).all())
    assert int((rows[4000:] == 0).all(dim=1).sum()) > 500


def test_frequent_ids_are_met_most_closely():
    """Errors of ids that the rows hold often cost most."""
    counts = torch.ones(1305, dtype=torch.int64)
    counts[:50] = 100_000
    errors = []
    for weighted in (True, False):
        table = build(rows=60)
        if weighted:
            table.use_counts(counts)
        before = table(IDS, SLOT).detach()
        table.cluster()
        errors.append(float((table(IDS, SLOT).detach() - before)[:50].square().mean()))
    assert errors[0] < 0.3 * errors[1]


def test_optimizer_state_starts_afresh():
    """Moments of rows that mean something else now would push them away."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.1)))
    table(IDS, SLOT).square().sum().backward()
    table.rows.step()
    assert bool(table.rows.packed[:, 2:].any())
    table.cluster()
    assert not bool(table.rows.packed[:, 2:].any())


def test_clusterings_follow_the_clock():
    """After each of the first epochs, once."""
    table, calls = build(clusterings=2), []
    table.cluster = lambda: calls.append(step)
    for step in range(50):
        table.on_step(Clock(step, 10, 50))
    assert calls == [10, 20]


def test_older_weights_put_back_cause_no_second_clustering():
    """A validation that got worse loads the state of before the boundary; the clock goes on."""
    table = build()
    old = {name: value.clone() for name, value in table.state_dict().items()}
    table.on_step(Clock(10, 10, 50))
    table.load_state_dict(old)
    table.on_step(Clock(11, 10, 50))
    assert torch.equal(table.pointers, old["pointers"])
    assert torch.equal(table.salt, old["salt"])


def test_state_restores_pointers_and_salts():
    """A checkpoint after a clustering rebuilds the table in one that was never clustered."""
    table = build()
    table.cluster()
    other = build()
    other.load_state_dict(table.state_dict())
    assert torch.equal(other(IDS, SLOT), table(IDS, SLOT))


def test_pointers_are_paid_for():
    """columns · n · ⌈log2 rows⌉ bits: at small budgets they are most of it, and papers leave them out."""
    config = CCEConfig.for_budget([Feature("large", 10**6)], 16, 64 * 10**6 // 25)
    pointers = 10**6 * 4 * 5 // 8 + 7
    assert config.rows == 32  # one more would need six bits for each pointer
    assert config.nbytes([Feature("large", 10**6)], 16) == pointers + 8 * 16 * 32 + 8 * 4
    assert build(rows=20).serve_bytes() == 8 * 8 * 20 + (1305 * 4 * 5 + 7) // 8 + 7 + 8 * 4 * 3


def test_columns_that_do_not_divide_are_refused():
    """The error says what to change."""
    with pytest.raises(SlimtabError, match="4 columns do not divide the width 10"):
        CCEConfig.for_budget(FEATURES, 10, 10**6)


def test_two_levels_of_clusters_are_nearly_as_good_as_one():
    """Splitting first saves most of the time; each vector still gets a centroid close by."""
    torch.manual_seed(0)
    vectors, weights = torch.randn(6000, 4), torch.ones(6000)
    centroids, owner = cluster(vectors, weights, 400)
    found = (vectors - centroids[owner]).square().sum(dim=1).mean()
    best = (vectors - centroids[nearest(vectors, centroids)]).square().sum(dim=1).mean()
    assert float(found) < 1.15 * float(best)
    assert len(owner.unique()) > 370
    drawn = vectors[torch.randperm(6000)[:400]]
    assert float(found) < 0.8 * float((vectors - drawn[nearest(vectors, drawn)]).square().sum(dim=1).mean())


def test_more_clusters_than_kinds_of_vectors():
    """Ids that never moved are alike: groups of equal vectors must not break the split."""
    vectors = torch.zeros(1000, 2)
    vectors[:10] = torch.randn(10, 2)
    centroids, owner = cluster(vectors, torch.ones(1000), 300)
    torch.testing.assert_close(centroids[owner], vectors)
