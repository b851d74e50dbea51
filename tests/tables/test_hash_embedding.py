"""Hash embeddings: shared components, weighted for each id."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.hash_embedding import HashEmbedding, HashEmbeddingConfig
from slimtab.tables.hashing import hash_rows, make_salts
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("a", 5000), Feature("b", 5000), Feature("c", 40)]


def build(components=60, importances=300, probes=2, make_rows=PlainRows, noise=1.0):
    torch.manual_seed(0)
    config = HashEmbeddingConfig(components, importances, probes)
    table = HashEmbedding(config, FEATURES, 4, make_rows, 1.0)
    table.importances.assign(noise * torch.randn(importances, probes))
    return table


def reference(table, name, number, probes):
    """Σ_j p_j E[h_j(x)], as the paper writes it."""
    components, weights = table.components.values().numpy(), table.importances.values().numpy()
    salts = make_salts([name], probes + 1)[0]
    row = weights[int(hash_rows(number, salts[probes], len(weights)))]
    total = np.zeros(4)
    for j in range(probes):
        component = components[int(hash_rows(number, salts[j], len(components)))]
        total += (1 / probes**0.5 + row[j]) * component.astype(np.float64)
    return total


@pytest.mark.parametrize("probes", [1, 2, 3])
def test_equals_the_paper(probes):
    """For ids of every size, trained and frozen."""
    table = build(probes=probes)
    ids = torch.tensor([0, 1, 4999, 2**24 + 1, 2**31 + 7, 2**62 + 3])
    for slot, feature in enumerate(FEATURES):
        expected = np.stack([reference(table, feature.name, x, probes) for x in ids])
        for lookup in (table, table.freeze()):
            got = lookup(ids, torch.full_like(ids, slot)).detach()
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_ids_that_share_all_components_still_differ():
    """One component for all: vectors are multiples of it, told apart by their weights."""
    table, ids = build(components=1), torch.arange(200)
    vectors = table(ids, torch.zeros_like(ids))
    assert len(vectors.unique(dim=0)) > 140  # 300 weights, 200 ids: 146 distinct rows expected
    assert torch.linalg.matrix_rank(vectors) == 1


def test_weights_have_a_hash_of_their_own():
    """Were it one of the component hashes, ids that share a component would share weights more often."""
    table, ids = build(components=300), torch.arange(5000)
    component, importance = table.hashes(ids, torch.zeros_like(ids))
    for probe in range(2):
        assert int((component[:, probe] == importance).sum()) < 50  # 17 expected by chance


def test_features_have_hashes_of_their_own():
    """Both tables are shared, so the same id of two features must go elsewhere in both."""
    table, ids = build(300), torch.arange(5000)
    (a, p), (b, q) = (table.hashes(ids, torch.full_like(ids, slot)) for slot in (0, 1))
    assert int((a == b).sum()) < 80
    assert int((p == q).sum()) < 50


def test_starts_as_a_plain_sum_of_the_asked_variance():
    """Weights start at 1/√k, so that k components together vary as one (methods.md §0.3)."""
    table, ids = build(components=3000, probes=4, noise=0.0), torch.arange(5000)
    assert float(table(ids, torch.zeros_like(ids)).detach().std()) == pytest.approx(1.0, rel=0.05)


def test_decay_pulls_weights_to_one_over_root_k():
    """Towards 0 it would switch off whatever is rare."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.1, weight_decay=1.0)))
    for _ in range(200):
        table.importances.step()
    torch.testing.assert_close(table.freeze().importances, torch.full((300, 2), 0.5**0.5))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_budget_is_split_as_asked(share):
    """Half of the floats are weights unless told otherwise."""
    config = HashEmbeddingConfig.for_budget(FEATURES, 4, 40_000, share=share)
    floats = 2 * config.importances + 4 * config.components
    assert 2 * config.importances / floats == pytest.approx(share, abs=0.01)
    assert 40_000 - 16 < 4 * floats + 8 * 3 * 3 <= 40_000


def test_bad_options_are_named():
    """One line that says what to do."""
    for option in ({"probes": 0}, {"share": 0.0}, {"share": 1.0}):
        with pytest.raises(SlimtabError, match=f"set {next(iter(option))}"):
            HashEmbeddingConfig.for_budget(FEATURES, 4, 40_000, **option)


def test_stats():
    """How crowded the two tables are."""
    assert build().stats() == {
        "components": 60,
        "importances": 300,
        "ids_per_component": 2 * 10_040 / 60,
        "ids_per_importance": 10_040 / 300,
    }
